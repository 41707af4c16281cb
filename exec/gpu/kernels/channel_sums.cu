// Sums over each channel.
#include "channel_sums.cuh"

struct Sum {
  real value;
};

DEVICE Sum merged(Sum a, Sum b) {
  Sum both = {a.value + b.value};
  return both;
}

SYNC_KERNEL(channel_sums, const real* __restrict__ a, real* partials, real* target, int* arrived,
            int channels, int positions, int length, int by_channel, int by_position, int adds) {
  SHARED(Sum, room, MOST_THREADS);
  SHARED(int, is_last, 1);
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x), part = int(blockIdx.y);
  const int lanes = int(blockDim.y), lane = int(threadIdx.y), parts = int(gridDim.y);
  const int count = part_count(part, positions, length);
  real sums[4] = {0, 0, 0, 0};
  if (channel < channels) {
    const real* source = a + channel * by_channel + part * length * by_position;
    for (int k = lane; k < count; k += 4 * lanes)
      for (int j = 0; j < 4; ++j) {
        const int at = k + j * lanes;
        sums[j] += at < count ? source[at * by_position] : real(0);
      }
  }
  Sum sum = {(sums[0] + sums[1]) + (sums[2] + sums[3])};
  sum = over_lanes(room, sum);
  if (parts > 1) {
    if (!lane && channel < channels) partials[part * channels + channel] = sum.value;
    if (!is_last_part(arrived, is_last)) return;
    const volatile real* found = partials + channel;
    sum.value = 0;
    if (channel < channels)
      for (int each = lane; each < parts; each += lanes) sum.value += found[each * channels];
    sum = over_lanes(room, sum);
  }
  if (!lane && channel < channels) target[channel] = adds ? target[channel] + sum.value : sum.value;
}
