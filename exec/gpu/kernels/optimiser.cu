// Stochastic gradient descent with momentum over a flat buffer, in one pass.
#include "common.cuh"
#include "vector.cuh"

// v = momentum v + g;  w = w - rate v;  without velocities v is g.
KERNEL(sgd, real* w, const real* g, real* v, int n, int fours, real rate, real momentum) {
  FOR_EACH(i, fours) {
    Four step = four_at(g, i), weight = four_at(w, i);
    if (v) {
      const Four was = four_at(v, i);
      for (int k = 0; k < 4; ++k) step.at[k] += momentum * was.at[k];
      set_four(v, i, step);
    }
    for (int k = 0; k < 4; ++k) weight.at[k] -= rate * step.at[k];
    set_four(w, i, weight);
  }
  FOR_EACH(rest, n - 4 * fours) {
    const int i = 4 * fours + rest;
    real step = g[i];
    if (v) v[i] = step += momentum * v[i];
    w[i] -= rate * step;
  }
}
