// Convolution by columns: what the kernel sees at each place, and back.
//
// Images are [outer][height][width][inner]: channels and samples, or samples and channels. The
// column of a place has by_tap elements between the positions of the kernel.
#include "common.cuh"

KERNEL(im2col, const real* __restrict__ a, real* __restrict__ columns, int outer, int height, int width, int inner,
       int first_row, int rows, int output_width, int kernel_height, int kernel_width,
       int stride_height, int stride_width, int padding_height, int padding_width,
       int by_outer, int by_tap, int by_row, int by_column) {
  const int line = output_width * inner;
  for (int y = int(blockIdx.y * blockDim.y + threadIdx.y); y < outer * rows; y += int(gridDim.y * blockDim.y)) {
    const int image = y / rows, row = y - image * rows;
    for (int x = int(blockIdx.x * blockDim.x + threadIdx.x); x < line; x += int(gridDim.x * blockDim.x)) {
      const int column = x / inner, lane = x - column * inner;
      const int top = (first_row + row) * stride_height - padding_height;
      const int left = column * stride_width - padding_width;
      const real* source = a + image * height * width * inner + lane;
      real* target = columns + image * by_outer + row * by_row + column * by_column + lane;
      for (int h = top; h < top + kernel_height; ++h)
        for (int w = left; w < left + kernel_width; ++w) {
          const bool is_inside = h >= 0 && h < height && w >= 0 && w < width;
          *target = is_inside ? source[(h * width + w) * inner] : real(0);
          target += by_tap;
        }
    }
  }
}

// Each input gathers what belongs to it, in a fixed order. The columns are those of the output rows
// first_row to first_row + rows, the inputs the rows top to bottom; those below `seen` have had a
// share already, which is added to.
KERNEL(col2im, const real* __restrict__ columns, real* __restrict__ grad_input, int outer, int height, int width, int inner,
       int first_row, int rows, int output_width, int kernel_height, int kernel_width,
       int stride_height, int stride_width, int padding_height, int padding_width,
       int by_outer, int by_tap, int by_row, int by_column, int top, int bottom, int seen, int adds) {
  const int line = width * inner, lines = bottom - top, last_row = first_row + rows - 1;
  for (int y = int(blockIdx.y * blockDim.y + threadIdx.y); y < outer * lines; y += int(gridDim.y * blockDim.y)) {
    const int image = y / lines, h = top + y - image * lines;
    const int under = h + padding_height, above = under - kernel_height + 1;
    int from_row = above <= 0 ? 0 : (above + stride_height - 1) / stride_height;
    from_row = from_row < first_row ? first_row : from_row;
    const int to_row = under / stride_height < last_row ? under / stride_height : last_row;
    for (int x = int(blockIdx.x * blockDim.x + threadIdx.x); x < line; x += int(gridDim.x * blockDim.x)) {
      const int w = x / inner, lane = x - w * inner;
      const int right = w + padding_width, left = right - kernel_width + 1;
      const int from_column = left <= 0 ? 0 : (left + stride_width - 1) / stride_width;
      const int most = right / stride_width;
      const int to_column = most < output_width ? most : output_width - 1;
      const real* source = columns + image * by_outer + lane;
      real sum = 0;
      for (int row = from_row; row <= to_row; ++row)
        for (int column = from_column; column <= to_column; ++column) {
          const int tap = (under - row * stride_height) * kernel_width + right - column * stride_width;
          sum += source[tap * by_tap + (row - first_row) * by_row + column * by_column];
        }
      real* place = grad_input + (image * height + h) * line + x;
      *place = adds || h < seen ? *place + sum : sum;
    }
  }
}
