// The samples of a microbatch, gathered: sample i is row order[position + start + i] of `images`.
#include "common.cuh"

DEVICE const real* image(const real* images, const int* order, const int* position, int start, int i,
                         int features) {
  return images + size_t(order[position[0] + start + i]) * size_t(features);
}

// Samples by rows: their pixels, each with its channels side by side. One channel: plain copies.
KERNEL(gather_rows, const real* images, const int* order, const int* position, int start, int n,
       int channels, int pixels, real* target) {
  const int features = channels * pixels;
  for (int sample = int(blockIdx.y); sample < n; sample += int(gridDim.y)) {
    const real* source = image(images, order, position, start, sample, features);
    FOR_EACH(i, features)
      target[sample * features + i] = source[i % channels * pixels + i / channels];
  }
}

// Samples by columns, by way of tiles of 32 x 32 that a block of 32 x 8 threads turns.
SYNC_KERNEL(gather_columns, const real* images, const int* order, const int* position, int start,
            int n, int features, real* target) {
  SHARED(real, tile, 32 * 33);
  const int x = int(threadIdx.x), y = int(threadIdx.y), feature0 = int(blockIdx.x) * 32;
  for (int sample0 = int(blockIdx.y) * 32; sample0 < n; sample0 += int(gridDim.y) * 32) {
    for (int r = y; r < 32; r += 8)
      if (sample0 + r < n && feature0 + x < features)
        tile[r * 33 + x] =
            image(images, order, position, start, sample0 + r, features)[feature0 + x];
    barrier();
    for (int r = y; r < 32; r += 8)
      if (feature0 + r < features && sample0 + x < n)
        target[(feature0 + r) * n + sample0 + x] = tile[x * 33 + r];
    barrier();
  }
}

KERNEL(advance, int* position, int by) {
  FOR_EACH(i, 1) position[i] += by;
}
