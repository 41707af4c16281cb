// Maximum and average pooling of images [outer][height][width][inner]: channels and samples, or
// samples and channels, which is the same to a window.
#include "common.cuh"

// The loops of one thread: y over the lines of all images, x over their elements.
#define FOR_LINES(y, lines) \
  for (int y = int(blockIdx.y * blockDim.y + threadIdx.y); y < (lines); y += int(gridDim.y * blockDim.y))
#define FOR_LINE(x, line) \
  for (int x = int(blockIdx.x * blockDim.x + threadIdx.x); x < (line); x += int(gridDim.x * blockDim.x))

// The first of the windows that hold an element, which is `place` behind the start of the padding.
DEVICE int first_window(int place, int kernel, int stride) {
  return place < kernel ? 0 : (place - kernel) / stride + 1;
}

DEVICE int last_window(int place, int stride, int windows) {
  return place / stride < windows ? place / stride : windows - 1;
}

KERNEL(max_pool, const real* __restrict__ a, real* __restrict__ output, int outer, int height, int width, int inner,
       int output_height, int output_width, int kernel_height, int kernel_width,
       int stride_height, int stride_width, int padding_height, int padding_width) {
  const int line = output_width * inner;
  FOR_LINES(y, outer * output_height) {
    const int image = y / output_height, top = (y - image * output_height) * stride_height - padding_height;
    const int from_h = top < 0 ? 0 : top, to_h = top + kernel_height < height ? top + kernel_height : height;
    FOR_LINE(x, line) {
      const int column = x / inner, left = column * stride_width - padding_width;
      const int from_w = left < 0 ? 0 : left, to_w = left + kernel_width < width ? left + kernel_width : width;
      const real* source = a + image * height * width * inner + x - column * inner;
      real most = source[(from_h * width + from_w) * inner];
      for (int h = from_h; h < to_h; ++h)
        for (int w = from_w; w < to_w; ++w) most = maximum(most, source[(h * width + w) * inner]);
      output[y * line + x] = most;
    }
  }
}

// Each element gathers the gradient of the windows whose first largest element it is, row by row.
KERNEL(max_pool_backward, const real* __restrict__ a, const real* __restrict__ gb, real* __restrict__ grad_input, int outer, int height, int width, int inner,
       int output_height, int output_width, int kernel_height, int kernel_width,
       int stride_height, int stride_width, int padding_height, int padding_width, int adds) {
  const int line = width * inner;
  FOR_LINES(y, outer * height) {
    const int image = y / height, h = y - image * height, under = h + padding_height;
    const int from_row = first_window(under, kernel_height, stride_height);
    const int to_row = last_window(under, stride_height, output_height);
    FOR_LINE(x, line) {
      const int w = x / inner, lane = x - w * inner, right = w + padding_width;
      const int from_column = first_window(right, kernel_width, stride_width);
      const int to_column = last_window(right, stride_width, output_width);
      const real* source = a + image * height * line + lane;
      const real value = source[h * line + w * inner];
      real sum = 0;
      for (int row = from_row; row <= to_row; ++row) {
        const int top = row * stride_height - padding_height;
        const int from_h = top < 0 ? 0 : top, to_h = top + kernel_height < height ? top + kernel_height : height;
        for (int column = from_column; column <= to_column; ++column) {
          const int left = column * stride_width - padding_width;
          const int from_w = left < 0 ? 0 : left, to_w = left + kernel_width < width ? left + kernel_width : width;
          bool is_first = true;
          for (int i = from_h; i < to_h; ++i)  // to the end: reads that wait for none are faster
            for (int j = from_w; j < to_w; ++j) {
              const real other = source[i * line + j * inner];
              const bool is_before = i < h || (i == h && j < w);
              is_first = is_first && (is_before ? other < value : other <= value);
            }
          const real gradient = gb[((image * output_height + row) * output_width + column) * inner + lane];
          sum += is_first ? gradient : real(0);
        }
      }
      real* place = grad_input + y * line + x;
      *place = adds ? *place + sum : sum;
    }
  }
}

KERNEL(average_pool, const real* __restrict__ a, real* __restrict__ output, int outer, int height, int width, int inner,
       int output_height, int output_width, int kernel_height, int kernel_width,
       int stride_height, int stride_width, int padding_height, int padding_width) {
  const int line = output_width * inner;
  const real scale = real(1) / real(kernel_height * kernel_width);
  FOR_LINES(y, outer * output_height) {
    const int image = y / output_height, top = (y - image * output_height) * stride_height - padding_height;
    const int from_h = top < 0 ? 0 : top, to_h = top + kernel_height < height ? top + kernel_height : height;
    FOR_LINE(x, line) {
      const int column = x / inner, left = column * stride_width - padding_width;
      const int from_w = left < 0 ? 0 : left, to_w = left + kernel_width < width ? left + kernel_width : width;
      const real* source = a + image * height * width * inner + x - column * inner;
      real sum = 0;
      for (int h = from_h; h < to_h; ++h)
        for (int w = from_w; w < to_w; ++w) sum += source[(h * width + w) * inner];
      output[y * line + x] = sum * scale;
    }
  }
}

KERNEL(average_pool_backward, const real* __restrict__ gb, real* __restrict__ grad_input, int outer, int height, int width, int inner,
       int output_height, int output_width, int kernel_height, int kernel_width,
       int stride_height, int stride_width, int padding_height, int padding_width, int adds) {
  const int line = width * inner;
  const real scale = real(1) / real(kernel_height * kernel_width);
  FOR_LINES(y, outer * height) {
    const int image = y / height, under = y - image * height + padding_height;
    const int from_row = first_window(under, kernel_height, stride_height);
    const int to_row = last_window(under, stride_height, output_height);
    FOR_LINE(x, line) {
      const int w = x / inner, right = w + padding_width;
      const int from_column = first_window(right, kernel_width, stride_width);
      const int to_column = last_window(right, stride_width, output_width);
      const real* source = gb + image * output_height * output_width * inner + x - w * inner;
      real sum = 0;
      for (int row = from_row; row <= to_row; ++row)
        for (int column = from_column; column <= to_column; ++column)
          sum += source[(row * output_width + column) * inner];
      real* place = grad_input + y * line + x;
      *place = adds ? *place + sum * scale : sum * scale;
    }
  }
}
