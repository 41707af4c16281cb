// Four numbers that are read and written at once; their address is a multiple of 16 bytes.
#pragma once

#include "common.cuh"

struct alignas(16) Four {
  real at[4];
};

DEVICE Four four_at(const real* a, int i) { return reinterpret_cast<const Four*>(a)[i]; }

DEVICE void set_four(real* a, int i, Four value) { reinterpret_cast<Four*>(a)[i] = value; }
