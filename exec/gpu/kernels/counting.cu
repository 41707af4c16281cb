// How many samples a network gets right.
#include "common.cuh"

// The likeliest class is the first of the largest logits, or of those that are not numbers.
KERNEL(count_correct, const real* logits, const int* labels, int samples, int classes, int by_class,
       int by_sample, int* correct) {
  FOR_EACH(sample, samples) {
    const real* own = logits + sample * by_sample;
    real most = own[0];
    int likeliest = 0;
    for (int each = 1; each < classes && most == most; ++each) {
      const real value = own[each * by_class];
      if (!(value <= most)) {
        most = value;
        likeliest = each;
      }
    }
    if (likeliest == labels[sample]) add_atomic(correct, 1);
  }
}
