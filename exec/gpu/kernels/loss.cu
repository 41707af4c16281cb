// Softmax cross-entropy: its gradient in place of the logits, and its sum.
#include "common.cuh"

// `logits` (classes, n) become scale (softmax(logits + bias) - onehot); scale * sum -log p[label] is
// added to `total`. Sample j has the label labels[order[position + start + j]].
//
// A block has 32 columns and a power of two of rows, at most `classes` and 32: its thread (x, y)
// goes through the classes y, y + rows, ... of column x. The block that is last to write its sum
// into `sums` adds them all up, in their order, and leaves `counter` at zero for the next time.
SYNC_KERNEL(softmax_cross_entropy, real* logits, const real* bias, const int* labels,
            const int* order, const int* position, int start, int classes, int n, real scale,
            double* sums, double* total, int* counter) {
  SHARED(real, room, 32 * 32);
  SHARED(double, losses, 32);
  SHARED(int, is_last, 1);
  const int x = int(threadIdx.x), y = int(threadIdx.y), rows = int(blockDim.y);
  const int column = int(blockIdx.x) * 32 + x, mine = y * 32 + x;
  const bool is_sample = column < n;
  const int label = is_sample ? labels[order[position[0] + start + column]] : -1;

  real most = 0;
  if (is_sample) {
    most = logits[y * n + column] + (bias ? bias[y] : real(0));
    for (int c = y + rows; c < classes; c += rows)
      most = maximum(most, logits[c * n + column] + (bias ? bias[c] : real(0)));
  }
  room[mine] = most;
  barrier();
  for (int half = rows / 2; half > 0; half /= 2) {
    if (y < half) room[mine] = maximum(room[mine], room[mine + half * 32]);
    barrier();
  }
  most = room[x];
  if (y == 0) losses[x] = 0;
  barrier();

  real sum = 0;
  if (is_sample)
    for (int c = y; c < classes; c += rows) {
      const real below = logits[c * n + column] + (bias ? bias[c] : real(0)) - most;
      if (c == label) losses[x] = -double(below);
      const real power = exp(below);
      logits[c * n + column] = power;
      sum += power;
    }
  room[mine] = sum;
  barrier();
  for (int half = rows / 2; half > 0; half /= 2) {
    if (y < half) room[mine] += room[mine + half * 32];
    barrier();
  }
  sum = room[x];

  if (is_sample) {
    const real factor = scale / sum;
    for (int c = y; c < classes; c += rows) {
      real* place = logits + c * n + column;
      *place = *place * factor - (c == label ? scale : real(0));
    }
    if (y == 0) losses[x] += double(log(sum));
  }
  barrier();

  const bool is_first = x == 0 && y == 0;
  const int num_blocks = int(gridDim.x);
  if (is_first) {
    double together = 0;
    for (int j = 0; j < 32; ++j) together += losses[j];
    sums[blockIdx.x] = together;
    fence();
    is_last[0] = add_atomic(counter, 1) == num_blocks - 1;
  }
  barrier();
  if (!is_last[0]) return;
  fence();
  if (y == 0) {
    // What other blocks wrote must come from memory, not from what this one may have cached.
    const volatile double* written = sums;
    double together = 0;
    for (int j = x; j < num_blocks; j += 32) together += written[j];
    losses[x] = together;
  }
  barrier();
  if (is_first) {
    double together = 0;
    for (int j = 0; j < 32; ++j) together += losses[j];
    total[0] += double(scale) * together;
    counter[0] = 0;
  }
}
