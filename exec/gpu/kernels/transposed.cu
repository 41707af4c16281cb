// Transposed copies by way of tiles, so that what is read and what is written lies side by side.
#include "common.cuh"

// target[k target_batch + j target_row + i] = source[k source_batch + i source_row + j], or is added
// to, for i < m, j < n and k < batch. A block of 32 x 8 threads turns tiles of 32 x 32.
SYNC_KERNEL(permute, const real* source, real* target, int m, int n, int batch, int source_row,
            int target_row, int source_batch, int target_batch, int adds) {
  SHARED(real, tile, 32 * 33);
  const int x = int(threadIdx.x), y = int(threadIdx.y), tiles_n = (n + 31) / 32;
  const int i0 = int(blockIdx.x) / tiles_n * 32, j0 = int(blockIdx.x) % tiles_n * 32;
  for (int k = int(blockIdx.y); k < batch; k += int(gridDim.y)) {
    for (int r = y; r < 32; r += 8)
      if (i0 + r < m && j0 + x < n)
        tile[r * 33 + x] = source[k * source_batch + (i0 + r) * source_row + j0 + x];
    barrier();
    for (int r = y; r < 32; r += 8)
      if (j0 + r < n && i0 + x < m) {
        real* place = target + k * target_batch + (j0 + r) * target_row + i0 + x;
        *place = adds ? *place + tile[x * 33 + r] : tile[x * 33 + r];
      }
    barrier();
  }
}
