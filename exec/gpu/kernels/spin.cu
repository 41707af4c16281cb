// Holds a stream until the host has enqueued what is to be timed behind it.
#include "common.cuh"

KERNEL(spin, int microseconds) {
#ifdef EMULATED
    (void)microseconds;  // nothing there is done before somebody waits for it
#else
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - start < 1000ull * microseconds);
#endif
}
