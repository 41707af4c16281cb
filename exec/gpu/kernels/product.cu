// Matrix products for small shapes: c = alpha a b + beta c, where c (m, n) has rows.
//
// Element (i, k) of a is a[i a_row + k a_column], where one of the two distances is 1; so it is for
// b (k, j). Threads read along the one that is 1. The sum over k has the same order for every shape.
#include "common.cuh"

// Fill `tile`, (depth, width) with a gap behind each row, with elements (first + i, k0 + k) of a
// matrix of `length` x `num_k`, and zeros outside.
template <int width, int depth>
DEVICE void fill_tile(real* tile, const real* a, int first, int k0, int length, int num_k, int row,
                      int column) {
  for (int place = int(threadIdx.x); place < width * depth; place += 256) {
    const int i = column == 1 ? place / depth : place % width;
    const int k = column == 1 ? place % depth : place / width;
    const bool is_inside = first + i < length && k0 + k < num_k;
    tile[k * (width + 1) + i] = is_inside ? a[(first + i) * row + (k0 + k) * column] : real(0);
  }
}

// Each of the 256 threads computes a square of `side` x `side` elements, 16 apart.
template <int side, int depth>
DEVICE void multiply(real* a_tile, real* b_tile, const real* a, const real* b, real* c, int m, int n,
                     int num_k, int a_row, int a_column, int b_row, int b_column, int c_row, real alpha,
                     real beta) {
  constexpr int width = 16 * side;
  const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16, tiles_n = (n + width - 1) / width;
  const int i0 = int(blockIdx.x) / tiles_n * width, j0 = int(blockIdx.x) % tiles_n * width;
  real sums[side][side] = {};
  for (int k0 = 0; k0 < num_k; k0 += depth) {
    fill_tile<width, depth>(a_tile, a, i0, k0, m, num_k, a_row, a_column);
    fill_tile<width, depth>(b_tile, b, j0, k0, n, num_k, b_column, b_row);
    barrier();
    for (int k = 0; k < depth; ++k) {
      const real* a_line = a_tile + k * (width + 1) + y;
      const real* b_line = b_tile + k * (width + 1) + x;
      for (int r = 0; r < side; ++r)
        for (int s = 0; s < side; ++s) sums[r][s] += a_line[16 * r] * b_line[16 * s];
    }
    barrier();
  }
  for (int r = 0; r < side; ++r)
    for (int s = 0; s < side; ++s) {
      const int i = i0 + y + 16 * r, j = j0 + x + 16 * s;
      if (i >= m || j >= n) continue;
      real* place = c + i * c_row + j;
      const real found = alpha * sums[r][s];
      *place = beta == real(0) ? found : found + beta * *place;
    }
}

// Many small tiles: as many blocks as can be had from little work.
SYNC_KERNEL(product_16, const real* a, const real* b, real* c, int m, int n, int num_k, int a_row,
            int a_column, int b_row, int b_column, int c_row, real alpha, real beta) {
  SHARED(real, a_tile, 64 * 17);
  SHARED(real, b_tile, 64 * 17);
  multiply<1, 64>(a_tile, b_tile, a, b, c, m, n, num_k, a_row, a_column, b_row, b_column, c_row, alpha,
                  beta);
}

// Large tiles: each number that is read is used 64 times.
SYNC_KERNEL(product_64, const real* a, const real* b, real* c, int m, int n, int num_k, int a_row,
            int a_column, int b_row, int b_column, int c_row, real alpha, real beta) {
  SHARED(real, a_tile, 16 * 65);
  SHARED(real, b_tile, 16 * 65);
  multiply<4, 16>(a_tile, b_tile, a, b, c, m, n, num_k, a_row, a_column, b_row, b_column, c_row, alpha,
                  beta);
}
