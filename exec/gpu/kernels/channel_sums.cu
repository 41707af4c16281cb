// Sums over each channel, in a fixed order: each block those of some channels over a part of the
// positions, then one block those of all parts.
//
// Blocks are (channels, lanes); lanes are a power of two, and a block has 256 threads at most.
// Element k of channel c is at c * by_channel + k * by_position.
#include "common.cuh"

SYNC_KERNEL(channel_partials, const real* a, real* partials, int channels, int positions, int length,
            int by_channel, int by_position) {
  SHARED(real, totals, 256);
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x), part = int(blockIdx.y);
  const int lanes = int(blockDim.y), lane = int(threadIdx.y), own = lane * int(blockDim.x) + int(threadIdx.x);
  const int rest = positions - part * length, count = rest < length ? rest : length;
  real sums[4] = {0, 0, 0, 0};
  if (channel < channels) {
    const real* source = a + channel * by_channel + part * length * by_position;
    for (int k = lane; k < count; k += 4 * lanes)
      for (int j = 0; j < 4; ++j) {
        const int at = k + j * lanes;
        sums[j] += at < count ? source[at * by_position] : real(0);
      }
  }
  totals[own] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (int step = lanes / 2; step; step /= 2) {
    barrier();
    if (lane < step) totals[own] += totals[own + step * int(blockDim.x)];
  }
  if (!lane && channel < channels) partials[part * channels + channel] = totals[own];
}

SYNC_KERNEL(channel_totals, const real* partials, real* target, int channels, int parts, int adds) {
  SHARED(real, totals, 256);
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x);
  const int lanes = int(blockDim.y), lane = int(threadIdx.y), own = lane * int(blockDim.x) + int(threadIdx.x);
  real sum = 0;
  if (channel < channels)
    for (int part = lane; part < parts; part += lanes) sum += partials[part * channels + channel];
  totals[own] = sum;
  for (int step = lanes / 2; step; step /= 2) {
    barrier();
    if (lane < step) totals[own] += totals[own + step * int(blockDim.x)];
  }
  if (!lane && channel < channels) target[channel] = adds ? target[channel] + totals[own] : totals[own];
}
