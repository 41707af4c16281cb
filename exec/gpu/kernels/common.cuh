// The language of the kernels: one source for GPUs (nvrtc, nvcc) and, with EMULATED, for the CPU.
//
//   KERNEL(name, real* a, int n) { FOR_EACH(i, n) a[i] = exp(a[i]); }
//   SYNC_KERNEL(name, ...) { SHARED(real, tile, 32 * 33); ... barrier(); ... }
//
// `real` is float or double. threadIdx, blockIdx, blockDim and gridDim are CUDA's. Parameters are
// pointers (to real, float, double, int or unsigned char), int and real. Only SYNC_KERNELs may call
// barrier(), and every thread of a block must reach each one. Shared memory has no values at first.
#pragma once

#ifndef REAL
#define REAL float
#endif
typedef REAL real;

#ifdef EMULATED
#include "emulated.cuh"
#else

#define DEVICE static __device__ __forceinline__
#define KERNEL(name, ...) extern "C" __global__ void name(__VA_ARGS__)
#define SYNC_KERNEL(name, ...) extern "C" __global__ void name(__VA_ARGS__)
#define SHARED(type, name, count) __shared__ type name[count]
#define barrier() __syncthreads()

// Add to what other threads may add to; return what was there.
template <typename T>
DEVICE T add_atomic(T* place, T value) { return atomicAdd(place, value); }

// Let other blocks see what this thread wrote before it writes more.
DEVICE void fence() { __threadfence(); }

#endif

// The loop of one thread, of a one-dimensional grid, over its share of 0 <= i < n.
#define FOR_EACH(i, n) \
  for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < (n); i += int(gridDim.x * blockDim.x))

// As NumPy's: what is not a number stays so.
template <typename T>
DEVICE T maximum(T a, T b) { return a > b || a != a ? a : b; }

template <typename T>
DEVICE T minimum(T a, T b) { return a < b || a != a ? a : b; }
