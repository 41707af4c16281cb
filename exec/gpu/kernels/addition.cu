// The sum of two branches, four numbers at a time as far as `fours` says.
#include "common.cuh"
#include "vector.cuh"

KERNEL(add, const real* a, const real* b, real* sum, int n, int fours) {
  FOR_EACH(i, fours) {
    Four x = four_at(a, i);
    const Four y = four_at(b, i);
    for (int k = 0; k < 4; ++k) x.at[k] += y.at[k];
    set_four(sum, i, x);
  }
  FOR_EACH(rest, n - 4 * fours) {
    const int i = 4 * fours + rest;
    sum[i] = a[i] + b[i];
  }
}
