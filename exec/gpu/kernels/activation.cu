// Activations with the bias before them; their gradients with that of the bias.
//
// The first 4 `fours` elements are read four at a time, the rest one by one.
#include "common.cuh"
#include "sums.cuh"
#include "vector.cuh"

struct Identity {
  DEVICE real value(real a) { return a; }
};

struct Relu {
  DEVICE real value(real a) { return maximum(a, real(0)); }
  DEVICE real slope(real b) { return b > real(0) ? real(1) : real(0); }
};

// (tanh(a / 2) + 1) / 2 cannot overflow.
struct Sigmoid {
  DEVICE real value(real a) { return tanh(a * real(0.5)) * real(0.5) + real(0.5); }
  DEVICE real slope(real b) { return (real(1) - b) * b; }
};

// b = f(a + bias), the bias being that of channel i / inner % channels, if there is one.
template <typename Activation>
DEVICE void activate(const real* a, real* b, const real* bias, int n, int fours, int inner,
                     int channels) {
  FOR_EACH(i, fours) {
    Four four = four_at(a, i);
    int place = 0, channel = 0;
    if (bias) {
      place = 4 * i % inner;
      channel = 4 * i / inner % channels;
    }
    for (int k = 0; k < 4; ++k) {
      real x = four.at[k];
      if (bias) {
        x += bias[channel];
        if (++place == inner) {
          place = 0;
          if (++channel == channels) channel = 0;
        }
      }
      four.at[k] = Activation::value(x);
    }
    set_four(b, i, four);
  }
  FOR_EACH(rest, n - 4 * fours) {
    const int i = 4 * fours + rest;
    b[i] = Activation::value(bias ? a[i] + bias[i / inner % channels] : a[i]);
  }
}

KERNEL(add_bias, const real* a, real* b, const real* bias, int n, int fours, int inner, int channels) {
  activate<Identity>(a, b, bias, n, fours, inner, channels);
}

KERNEL(relu, const real* a, real* b, const real* bias, int n, int fours, int inner, int channels) {
  activate<Relu>(a, b, bias, n, fours, inner, channels);
}

KERNEL(sigmoid, const real* a, real* b, const real* bias, int n, int fours, int inner, int channels) {
  activate<Sigmoid>(a, b, bias, n, fours, inner, channels);
}

// ga = gb f'(a), or is added to, where f' is a function of b.
template <typename Activation>
DEVICE void go_back(const real* b, const real* gb, real* ga, int n, int fours, int adds) {
  FOR_EACH(i, fours) {
    const Four output = four_at(b, i);
    Four four = four_at(gb, i), was = four;
    if (adds) was = four_at(ga, i);
    for (int k = 0; k < 4; ++k) {
      four.at[k] *= Activation::slope(output.at[k]);
      if (adds) four.at[k] += was.at[k];
    }
    set_four(ga, i, four);
  }
  FOR_EACH(rest, n - 4 * fours) {
    const int i = 4 * fours + rest;
    const real share = gb[i] * Activation::slope(b[i]);
    ga[i] = adds ? ga[i] + share : share;
  }
}

KERNEL(relu_backward, const real* b, const real* gb, real* ga, int n, int fours, int adds) {
  go_back<Relu>(b, gb, ga, n, fours, adds);
}

KERNEL(sigmoid_backward, const real* b, const real* gb, real* ga, int n, int fours, int adds) {
  go_back<Sigmoid>(b, gb, ga, n, fours, adds);
}

// A block goes back along one row, the samples of a unit, and sums what it finds: the gradient of
// the unit's bias. `fours` are the groups of four in each row.
template <typename Activation>
DEVICE void go_back_along(real* room, const real* b, const real* gb, real* ga, real* grad_bias,
                          int samples, int fours, int adds, int adds_bias) {
  const int unit = int(blockIdx.x), first = unit * samples, step = int(blockDim.x);
  real sum = 0;
  for (int j = int(threadIdx.x); j < fours; j += step) {
    const int i = first / 4 + j;
    const Four output = four_at(b, i);
    Four four = four_at(gb, i), was = four;
    if (adds) was = four_at(ga, i);
    for (int k = 0; k < 4; ++k) {
      four.at[k] *= Activation::slope(output.at[k]);
      sum += four.at[k];
      if (adds) four.at[k] += was.at[k];
    }
    set_four(ga, i, four);
  }
  for (int j = 4 * fours + int(threadIdx.x); j < samples; j += step) {
    const int i = first + j;
    const real share = gb[i] * Activation::slope(b[i]);
    sum += share;
    ga[i] = adds ? ga[i] + share : share;
  }
  sum = block_sum(room, sum);
  if (threadIdx.x == 0) grad_bias[unit] = adds_bias ? grad_bias[unit] + sum : sum;
}

SYNC_KERNEL(relu_backward_bias, const real* b, const real* gb, real* ga, real* grad_bias, int samples,
            int fours, int adds, int adds_bias) {
  SHARED(real, room, 256);
  go_back_along<Relu>(room, b, gb, ga, grad_bias, samples, fours, adds, adds_bias);
}

SYNC_KERNEL(sigmoid_backward_bias, const real* b, const real* gb, real* ga, real* grad_bias,
            int samples, int fours, int adds, int adds_bias) {
  SHARED(real, room, 256);
  go_back_along<Sigmoid>(room, b, gb, ga, grad_bias, samples, fours, adds, adds_bias);
}

// The sum of each row, one block a row.
SYNC_KERNEL(row_sums, const real* a, real* sums, int columns, int fours, int adds) {
  SHARED(real, room, 256);
  const int row = int(blockIdx.x), first = row * columns, step = int(blockDim.x);
  real sum = 0;
  for (int j = int(threadIdx.x); j < fours; j += step) {
    const Four four = four_at(a, first / 4 + j);
    sum += (four.at[0] + four.at[1]) + (four.at[2] + four.at[3]);
  }
  for (int j = 4 * fours + int(threadIdx.x); j < columns; j += step) sum += a[first + j];
  sum = block_sum(room, sum);
  if (threadIdx.x == 0) sums[row] = adds ? sums[row] + sum : sum;
}
