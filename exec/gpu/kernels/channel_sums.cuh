// Sums over each channel, in an order that is always the same, by one launch.
//
// A block has (channels, lanes) threads: lanes are a power of two, threads 256 at most. It sums over
// a part of the positions, blockIdx.y; the last block to come of those of its channels sums over the
// parts. Element k of channel c is at c * by_channel + k * by_position.
#pragma once

#include "common.cuh"

#define MOST_THREADS 256

// What the lanes of a block have together, merged two by two, for lane 0; `room` has a place for
// each thread.
template <typename T>
DEVICE T over_lanes(T* room, T mine) {
  const int own = int(threadIdx.y * blockDim.x + threadIdx.x);
  room[own] = mine;
  for (int step = int(blockDim.y) / 2; step; step /= 2) {
    barrier();
    if (int(threadIdx.y) < step) room[own] = merged(room[own], room[own + step * int(blockDim.x)]);
  }
  barrier();
  return room[own];
}

// Whether all other blocks of these channels have written their sums, which can then be read as
// volatile. `arrived` has a zero for all blocks of the same channels, and has it again afterwards.
DEVICE bool is_last_part(int* arrived, int* is_last) {
  const bool is_first_thread = !threadIdx.x && !threadIdx.y;
  fence();
  barrier();
  if (is_first_thread) {
    is_last[0] = add_atomic(arrived + blockIdx.x, 1) == int(gridDim.y) - 1;
    if (is_last[0]) arrived[blockIdx.x] = 0;
    fence();
  }
  barrier();
  return is_last[0];
}

// The number of elements of a part.
DEVICE int part_count(int part, int positions, int length) {
  const int rest = positions - part * length;
  return rest < length ? rest : length;
}
