// Batch normalisation: sums over each channel in parts and in all, then each element by them.
//
// Blocks are (channels, lanes), as for channel sums. Squares are summed about means, and means and
// squares of parts are merged, so that nothing cancels.
//
// Source: T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance:
// analysis and recommendations", The American Statistician 37 (1983) 242-247.
#include "common.cuh"

#define GROUP 8
// Elements that a thread reads before it writes any, as many at a time as the memory takes.
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

// The number of elements of a part.
DEVICE int part_count(int part, int positions, int length) {
  const int rest = positions - part * length;
  return rest < length ? rest : length;
}

SYNC_KERNEL(bn_moments, const real* a, real* partials, int channels, int positions, int length,
            int by_channel, int by_position) {
  SHARED(Moments, found, 256);
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x), part = int(blockIdx.y);
  const int lanes = int(blockDim.y), lane = int(threadIdx.y), own = lane * int(blockDim.x) + int(threadIdx.x);
  const int count = part_count(part, positions, length);
  Moments all = {0, 0, 0};
  if (channel < channels) {
    const real* source = a + channel * by_channel + part * length * by_position;
    for (int k = lane; k < count; k += GROUP * lanes) {
      real values[GROUP], sum = 0;
      for (int j = 0; j < GROUP; ++j) {
        const int at = k + j * lanes;
        values[j] = at < count ? source[at * by_position] : real(0);
        sum += values[j];
      }
      const int left = (count - k + lanes - 1) / lanes, size = left < GROUP ? left : GROUP;
      Moments group = {real(size), sum / real(size), 0};
      for (int j = 0; j < GROUP; ++j) {
        const real apart = j < size ? values[j] - group.mean : real(0);
        group.squares += apart * apart;
      }
      all = merged(all, group);
    }
  }
  found[own] = all;
  for (int step = lanes / 2; step; step /= 2) {
    barrier();
    if (lane < step) found[own] = merged(found[own], found[own + step * int(blockDim.x)]);
  }
  if (!lane && channel < channels) {
    real* place = partials + 2 * part * channels + channel;
    place[0] = found[own].mean;
    place[channels] = found[own].squares;
  }
}

// Shared sums are about the running mean, which is saved, and wait for those of others. Else they
// are about the mean, and the statistics can be had at once.
SYNC_KERNEL(bn_sums, const real* partials, real* sums, real* saved, real* running_mean, real* running_var,
            int channels, int positions, int parts, int length, int count, real eps, real momentum, int is_shared) {
  SHARED(Moments, found, 256);
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x);
  const int lanes = int(blockDim.y), lane = int(threadIdx.y), own = lane * int(blockDim.x) + int(threadIdx.x);
  Moments all = {0, 0, 0};
  if (channel < channels)
    for (int part = lane; part < parts; part += lanes) {
      const real* place = partials + 2 * part * channels + channel;
      Moments each = {real(part_count(part, positions, length)), place[0], place[channels]};
      all = merged(all, each);
    }
  found[own] = all;
  for (int step = lanes / 2; step; step /= 2) {
    barrier();
    if (lane < step) found[own] = merged(found[own], found[own + step * int(blockDim.x)]);
  }
  if (lane || channel >= channels) return;
  all = found[own];
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

// Partial sums of gb and gb (a - mean).
SYNC_KERNEL(bn_gradient_partials, const real* a, const real* gb, const real* saved, real* partials,
            int channels, int positions, int length, int by_channel, int by_position) {
  SHARED(real, firsts, 256);
  SHARED(real, seconds, 256);
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x), part = int(blockIdx.y);
  const int lanes = int(blockDim.y), lane = int(threadIdx.y), own = lane * int(blockDim.x) + int(threadIdx.x);
  const int count = part_count(part, positions, length);
  real first = 0, second = 0;
  if (channel < channels) {
    const real mean = saved[channel];
    const int start = channel * by_channel + part * length * by_position;
    for (int k = lane; k < count; k += GROUP * lanes) {
      real gradient = 0, product = 0;
      for (int j = 0; j < GROUP; ++j) {
        const int at = k + j * lanes, place = start + at * by_position;
        const real g = at < count ? gb[place] : real(0), value = at < count ? a[place] : mean;
        gradient += g;
        product += g * (value - mean);
      }
      first += gradient;
      second += product;
    }
  }
  firsts[own] = first;
  seconds[own] = second;
  for (int step = lanes / 2; step; step /= 2) {
    barrier();
    if (lane < step) {
      firsts[own] += firsts[own + step * int(blockDim.x)];
      seconds[own] += seconds[own + step * int(blockDim.x)];
    }
  }
  if (!lane && channel < channels) {
    real* place = partials + 2 * part * channels + channel;
    place[0] = firsts[own];
    place[channels] = seconds[own];
  }
}

SYNC_KERNEL(bn_gradient_sums, const real* partials, const real* saved, real* sums, real* grad_gamma,
            real* grad_beta, int channels, int parts, int adds) {
  SHARED(real, firsts, 256);
  SHARED(real, seconds, 256);
  const int channel = int(blockIdx.x * blockDim.x + threadIdx.x);
  const int lanes = int(blockDim.y), lane = int(threadIdx.y), own = lane * int(blockDim.x) + int(threadIdx.x);
  real first = 0, second = 0;
  if (channel < channels)
    for (int part = lane; part < parts; part += lanes) {
      first += partials[2 * part * channels + channel];
      second += partials[(2 * part + 1) * channels + channel];
    }
  firsts[own] = first;
  seconds[own] = second;
  for (int step = lanes / 2; step; step /= 2) {
    barrier();
    if (lane < step) {
      firsts[own] += firsts[own + step * int(blockDim.x)];
      seconds[own] += seconds[own + step * int(blockDim.x)];
    }
  }
  if (lane || channel >= channels) return;
  first = firsts[own];
  second = parts ? seconds[own] * saved[channels + channel] : real(0);
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
