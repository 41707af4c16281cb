// One number at a time.
#include "common.cuh"

KERNEL(accumulate, real* into, const real* source, int n) { FOR_EACH(i, n) into[i] += source[i]; }

KERNEL(scale, real* a, int n, real factor) { FOR_EACH(i, n) a[i] *= factor; }

KERNEL(fill, real* a, int n, real value) { FOR_EACH(i, n) a[i] = value; }

KERNEL(fill_int, int* a, int n, int value) { FOR_EACH(i, n) a[i] = value; }
