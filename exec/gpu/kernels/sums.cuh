// Sums over a block, in an order that is always the same.
#pragma once

#include "common.cuh"

// What the threads of a block, a power of two along x, have together; `room` has a place for each.
// Every thread must call it, and may use `room` again behind a barrier.
template <typename Number>
DEVICE Number block_sum(Number* room, Number mine) {
  const int thread = int(threadIdx.x);
  room[thread] = mine;
  barrier();
  for (int half = int(blockDim.x) / 2; half > 0; half /= 2) {
    if (thread < half) room[thread] += room[thread + half];
    barrier();
  }
  return room[0];
}
