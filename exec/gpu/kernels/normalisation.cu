// Batch normalisation: sums over each channel, then each element by them.
//
// Blocks are (channels, lanes), as for sums over channels. Squares are summed about means, and means
// and squares of parts are merged, so that nothing cancels.
//
// Source: T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance:
// analysis and recommendations", The American Statistician 37 (1983) 242-247.
#include "channel_sums.cuh"

// Elements that a thread reads before it does anything with them: as many at a time as the memory
// takes; and of those that it writes.
#define GROUP 8
#define AHEAD 4

// The groups of AHEAD positions of one thread, whose first is k; the others are blockDim.y apart.
#define FOR_GROUPS(k) \
  for (int k = int(blockIdx.y * blockDim.y * AHEAD + threadIdx.y); k < positions; \
       k += int(gridDim.y * blockDim.y * AHEAD))

struct Moments {
  real count, mean, squares;
};

DEVICE Moments merged(Moments a, Moments b) {
  const real count = a.count + b.count;
  if (!(count > 0)) return a;
  const real apart = b.mean - a.mean, share = b.count / count;
  Moments both = {count, a.mean + apart * share, a.squares + b.squares + apart * apart * a.count * share};
  return both;
}

struct Sums {
  real gradient, product;
};

DEVICE Sums merged(Sums a, Sums b) {
  Sums both = {a.gradient + b.gradient, a.product + b.product};
  return both;
}

// Shared sums are about the running mean, which is saved, and wait for those of others. Else they
// are about the mean, and the statistics can be had at once.
SYNC_KERNEL(bn_forward_sums, const real* __restrict__ a, real* partials, real* sums, real* saved, real* running_mean,
            real* running_var, int* arrived, int channels, int positions, int length, int by_channel,
            int by_position, int count, real eps, real momentum, int is_shared) {
  SHARED(Moments, room, MOST_THREADS);
  SHARED(int, is_last, 1);
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x), part = int(blockIdx.y);
  const int lanes = int(blockDim.y), lane = int(threadIdx.y), parts = int(gridDim.y);
  const int own = part_count(part, positions, length);
  Moments all = {0, 0, 0};
  if (channel < channels) {
    const real* source = a + channel * by_channel + part * length * by_position;
    for (int k = lane; k < own; k += GROUP * lanes) {
      real values[GROUP], sum = 0;
      for (int j = 0; j < GROUP; ++j) {
        const int at = k + j * lanes;
        values[j] = at < own ? source[at * by_position] : real(0);
        sum += values[j];
      }
      const int left = (own - k + lanes - 1) / lanes, size = left < GROUP ? left : GROUP;
      Moments group = {real(size), sum / real(size), 0};
      for (int j = 0; j < GROUP; ++j) {
        const real apart = j < size ? values[j] - group.mean : real(0);
        group.squares += apart * apart;
      }
      all = merged(all, group);
    }
  }
  all = over_lanes(room, all);
  if (parts > 1) {
    if (!lane && channel < channels) {
      real* place = partials + 2 * part * channels + channel;
      place[0] = all.mean;
      place[channels] = all.squares;
    }
    if (!is_last_part(arrived, is_last)) return;
    Moments none = {0, 0, 0};
    all = none;
    if (channel < channels)
      for (int each = lane; each < parts; each += lanes) {
        const volatile real* place = partials + 2 * each * channels + channel;
        Moments found = {real(part_count(each, positions, length)), place[0], place[channels]};
        all = merged(all, found);
      }
    all = over_lanes(room, all);
  }
  if (lane || channel >= channels) return;
  if (is_shared) {
    const real shift = all.count > 0 ? all.mean - running_mean[channel] : real(0);
    saved[channel] = running_mean[channel];
    sums[channel] = all.count * shift;
    sums[channels + channel] = all.squares + all.count * shift * shift;
    return;
  }
  sums[channel] = 0;
  sums[channels + channel] = all.squares;
  if (!count) return;
  const real variance = all.squares / real(count), rest = count > 1 ? real(count - 1) : real(1);
  saved[channel] = all.mean;
  saved[channels + channel] = 1 / sqrt(variance + eps);
  running_mean[channel] = running_mean[channel] * (1 - momentum) + momentum * all.mean;
  running_var[channel] = running_var[channel] * (1 - momentum) + momentum * (real(count) / rest) * variance;
}

KERNEL(bn_statistics, const real* sums, real* saved, real* running_mean, real* running_var,
       int channels, int count, real eps, real momentum) {
  FOR_EACH(channel, channels) {
    const real shift = sums[channel] / real(count), rest = count > 1 ? real(count - 1) : real(1);
    const real variance = maximum(sums[channels + channel] / real(count) - shift * shift, real(0));
    const real mean = saved[channel] + shift;
    saved[channel] = mean;
    saved[channels + channel] = 1 / sqrt(variance + eps);
    running_mean[channel] = running_mean[channel] * (1 - momentum) + momentum * mean;
    running_var[channel] = running_var[channel] * (1 - momentum) + momentum * (real(count) / rest) * variance;
  }
}

KERNEL(bn_forward, const real* a, real* output, const real* gamma, const real* beta, const real* saved,
       int channels, int positions, int by_channel, int by_position) {
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (channel >= channels) return;
  const real mean = saved[channel], scale = gamma[channel] * saved[channels + channel], shift = beta[channel];
  FOR_GROUPS(k) {
    real values[AHEAD];
    for (int j = 0; j < AHEAD; ++j) {
      const int at = k + j * int(blockDim.y);
      values[j] = at < positions ? a[channel * by_channel + at * by_position] : mean;
    }
    for (int j = 0; j < AHEAD; ++j) {
      const int at = k + j * int(blockDim.y);
      if (at < positions) output[channel * by_channel + at * by_position] = (values[j] - mean) * scale + shift;
    }
  }
}

KERNEL(bn_normalise, const real* a, real* output, const real* gamma, const real* beta, const real* mean,
       const real* variance, real eps, int channels, int positions, int by_channel, int by_position) {
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (channel >= channels) return;
  const real centre = mean[channel], scale = gamma[channel] / sqrt(variance[channel] + eps), shift = beta[channel];
  FOR_GROUPS(k) {
    real values[AHEAD];
    for (int j = 0; j < AHEAD; ++j) {
      const int at = k + j * int(blockDim.y);
      values[j] = at < positions ? a[channel * by_channel + at * by_position] : centre;
    }
    for (int j = 0; j < AHEAD; ++j) {
      const int at = k + j * int(blockDim.y);
      if (at < positions) output[channel * by_channel + at * by_position] = (values[j] - centre) * scale + shift;
    }
  }
}

// Sums of gb and gb xhat.
SYNC_KERNEL(bn_backward_sums, const real* __restrict__ a, const real* __restrict__ gb, const real* saved, real* partials,
            real* sums, real* grad_gamma, real* grad_beta, int* arrived, int channels, int positions,
            int length, int by_channel, int by_position, int adds) {
  SHARED(Sums, room, MOST_THREADS);
  SHARED(int, is_last, 1);
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x), part = int(blockIdx.y);
  const int lanes = int(blockDim.y), lane = int(threadIdx.y), parts = int(gridDim.y);
  const int count = part_count(part, positions, length);
  Sums all = {0, 0};
  if (channel < channels) {
    const real mean = saved[channel];
    const int start = channel * by_channel + part * length * by_position;
    for (int k = lane; k < count; k += GROUP * lanes) {
      Sums group = {0, 0};
      for (int j = 0; j < GROUP; ++j) {
        const int at = k + j * lanes, place = start + at * by_position;
        const real gradient = at < count ? gb[place] : real(0), value = at < count ? a[place] : mean;
        group.gradient += gradient;
        group.product += gradient * (value - mean);
      }
      all = merged(all, group);
    }
  }
  all = over_lanes(room, all);
  if (parts > 1) {
    if (!lane && channel < channels) {
      real* place = partials + 2 * part * channels + channel;
      place[0] = all.gradient;
      place[channels] = all.product;
    }
    if (!is_last_part(arrived, is_last)) return;
    Sums none = {0, 0};
    all = none;
    if (channel < channels)
      for (int each = lane; each < parts; each += lanes) {
        const volatile real* place = partials + 2 * each * channels + channel;
        Sums found = {place[0], place[channels]};
        all = merged(all, found);
      }
    all = over_lanes(room, all);
  }
  if (lane || channel >= channels) return;
  const real first = all.gradient, second = positions ? all.product * saved[channels + channel] : real(0);
  sums[channel] = first;
  sums[channels + channel] = second;
  grad_beta[channel] = adds ? grad_beta[channel] + first : first;
  grad_gamma[channel] = adds ? grad_gamma[channel] + second : second;
}

KERNEL(bn_backward, const real* a, const real* gb, real* grad_input, const real* gamma, const real* saved,
       const real* sums, int channels, int positions, int count, int by_channel, int by_position, int adds) {
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (channel >= channels) return;
  const real samples = count > 1 ? real(count) : real(1);
  const real mean = saved[channel], inverse = saved[channels + channel], scale = gamma[channel] * inverse;
  const real first = sums[channel] / samples, slope = sums[channels + channel] / samples * inverse;
  FOR_GROUPS(k) {
    real found[AHEAD];
    for (int j = 0; j < AHEAD; ++j) {
      const int at = k + j * int(blockDim.y), place = channel * by_channel + at * by_position;
      if (at < positions) {
        const real before = adds ? grad_input[place] : real(0);
        found[j] = (gb[place] - ((a[place] - mean) * slope + first)) * scale + before;
      }
    }
    for (int j = 0; j < AHEAD; ++j) {
      const int at = k + j * int(blockDim.y);
      if (at < positions) grad_input[channel * by_channel + at * by_position] = found[j];
    }
  }
}
