// The language of the kernels on the CPU: blocks one after another; the threads of a KERNEL in a
// loop, those of a SYNC_KERNEL as fibers that change at barriers. A seed permutes blocks and threads.
//
// For each kernel, `kernel_NAME` runs it, returning what was wrong or null, and `signature_NAME`
// says its parameters: f d i of values, F D I B of pointers. One call at a time.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <type_traits>
#include <utility>

namespace emulated {

struct Dimensions {
  unsigned x, y, z;
  unsigned count() const { return x * y * z; }
  void place(unsigned index, const Dimensions& of) {
    x = index % of.x;
    y = index / of.x % of.y;
    z = index / of.x / of.y;
  }
};

// A fiber goes on where it left, and once its thread is done it waits for another one to run.
struct Fiber {
  jmp_buf left;
  ucontext_t start;
  char* stack;
  bool is_started, is_done;
  int line;  // of the barrier it waits at
};

enum { MOST_THREADS = 1024, STACK_BYTES = 1 << 16 };

static Dimensions thread, block, threads, blocks;
static unsigned long block_serial;
static unsigned long long random_state;
static void** arguments;
static Fiber fibers[MOST_THREADS];
static Fiber* current;  // null in a KERNEL
static jmp_buf scheduler;
static void (*run_thread)();
static bool has_failed;
static char failure[200];

static unsigned draw(unsigned below) {
  random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
  return unsigned((random_state >> 33) % below);
}

// Each of 0 .. count - 1 once: by steps of a stride without a factor in common with count.
struct Order {
  unsigned count, stride, next;
  explicit Order(unsigned count, bool is_permuted) : count(count), stride(1), next(0) {
    if (!is_permuted || count == 1) return;
    do stride = 1 + draw(count - 1); while (common_factor(count, stride) != 1);
    next = draw(count);
  }
  static unsigned common_factor(unsigned a, unsigned b) { return b ? common_factor(b, a % b) : a; }
  unsigned take() {
    unsigned taken = next;
    next = unsigned(((unsigned long long)next + stride) % count);
    return taken;
  }
};

static void fail(const char* message, int line) {
  if (!has_failed) snprintf(failure, sizeof failure, "%s (line %d)", message, line);
  has_failed = true;
}

__attribute__((noinline)) static void leave() {
  if (_setjmp(current->left) == 0) _longjmp(scheduler, 1);
}

static void run_fiber() {
  for (;;) {
    run_thread();
    current->is_done = true;
    leave();
  }
}

__attribute__((noinline)) static void resume() {
  if (_setjmp(scheduler) != 0) return;
  if (current->is_started) _longjmp(current->left, 1);
  if (!current->stack) current->stack = static_cast<char*>(malloc(STACK_BYTES));
  getcontext(&current->start);
  current->start.uc_stack.ss_sp = current->stack;
  current->start.uc_stack.ss_size = STACK_BYTES;
  current->start.uc_link = nullptr;
  makecontext(&current->start, run_fiber, 0);
  current->is_started = true;
  setcontext(&current->start);
}

__attribute__((noinline)) static void wait_at_barrier(int line) {
  if (!current) return fail("barrier() must be in a SYNC_KERNEL, got a KERNEL", line);
  current->line = line;
  leave();
}

// Shared memory is changed by other threads meanwhile: the compiler must not remember it.
static inline void wait_at(int line) {
  asm volatile("" ::: "memory");
  wait_at_barrier(line);
  asm volatile("" ::: "memory");
}

// The first thread of a block to come here spoils what the last block left.
static inline void spoil(void* memory, size_t nbytes, unsigned long* of_block) {
  asm volatile("" : : "r"(memory) : "memory");
  if (*of_block == block_serial) return;
  *of_block = block_serial;
  memset(memory, 0xFF, nbytes);
}

// Run the fibers from barrier to barrier, until all are done.
static void run_fibers(unsigned count, bool is_permuted) {
  for (unsigned i = 0; i < count; ++i) fibers[i].is_done = false;
  for (unsigned done = 0; done < count;) {
    Order order(count, is_permuted);
    int line = 0;
    done = 0;
    for (unsigned i = 0; i < count; ++i) {
      unsigned index = order.take();
      current = &fibers[index];
      thread.place(index, threads);
      resume();
      if (current->is_done) ++done;
      else if (!line) line = current->line;
      else if (line != current->line) fail("all threads of a block must reach the same barrier", line);
    }
    if (done && done < count) fail("all threads of a block must reach each barrier", line);
    if (!has_failed) continue;
    for (unsigned i = 0; i < count; ++i) fibers[i].is_started = false;
    break;
  }
  current = nullptr;
}

template <typename T> constexpr char code() {
  using Value = std::remove_cv_t<std::remove_pointer_t<T>>;
  constexpr bool is_pointer = std::is_pointer_v<T>;
  static_assert(is_pointer ? std::is_same_v<Value, float> || std::is_same_v<Value, double> ||
                                 std::is_same_v<Value, int> || std::is_same_v<Value, unsigned char>
                           : std::is_same_v<Value, real> || std::is_same_v<Value, int>,
                "a parameter must be real, int, or a pointer to real, float, double, int or unsigned char");
  if (std::is_same_v<Value, float>) return is_pointer ? 'F' : 'f';
  if (std::is_same_v<Value, double>) return is_pointer ? 'D' : 'd';
  if (std::is_same_v<Value, int>) return is_pointer ? 'I' : 'i';
  return 'B';
}

template <auto Body> struct Launch;

template <typename... P, void (*Body)(P...)> struct Launch<Body> {
  static constexpr char signature[] = {code<P>()..., '\0'};

  template <size_t... I> static void call(std::index_sequence<I...>) {
    Body(*static_cast<P*>(arguments[I])...);
  }
  static void one() { call(std::index_sequence_for<P...>()); }

  static const char* run(const unsigned* grid, const unsigned* of_threads, void** given, unsigned seed,
                         bool has_barriers) {
    bool is_permuted = seed != 0;
    blocks = {grid[0], grid[1], grid[2]};
    threads = {of_threads[0], of_threads[1], of_threads[2]};
    if (threads.count() == 0 || threads.count() > MOST_THREADS) return "a block must have 1 to 1024 threads";
    random_state = seed;
    has_failed = false;
    arguments = given;
    run_thread = one;
    Order order(blocks.count() ? blocks.count() : 1, is_permuted);
    for (unsigned i = 0; i < blocks.count() && !has_failed; ++i) {
      ++block_serial;
      block.place(order.take(), blocks);
      if (has_barriers) {
        run_fibers(threads.count(), is_permuted);
        continue;
      }
      Order of_thread(threads.count(), is_permuted);
      for (unsigned j = 0; j < threads.count(); ++j) {
        thread.place(of_thread.take(), threads);
        one();
      }
    }
    return has_failed ? failure : nullptr;
  }
};

}  // namespace emulated

#define threadIdx emulated::thread
#define blockIdx emulated::block
#define blockDim emulated::threads
#define gridDim emulated::blocks

#define DEVICE static inline
#define EMULATED_KERNEL(has_barriers, name, ...)                                                   \
  static void body_##name(__VA_ARGS__);                                                            \
  extern "C" const char* signature_##name() { return emulated::Launch<body_##name>::signature; }   \
  extern "C" const char* kernel_##name(const unsigned* grid, const unsigned* block, void** given,  \
                                       unsigned seed) {                                            \
    return emulated::Launch<body_##name>::run(grid, block, given, seed, has_barriers);             \
  }                                                                                                \
  static void body_##name(__VA_ARGS__)
#define KERNEL(name, ...) EMULATED_KERNEL(false, name, __VA_ARGS__)
#define SYNC_KERNEL(name, ...) EMULATED_KERNEL(true, name, __VA_ARGS__)
#define SHARED(type, name, count)                    \
  alignas(16) static type name[count];               \
  static unsigned long block_of_##name;              \
  emulated::spoil(name, sizeof name, &block_of_##name)
#define barrier() emulated::wait_at(__LINE__)

template <typename T>
DEVICE T add_atomic(T* place, T value) {
  T was = *place;
  *place = was + value;
  return was;
}

DEVICE void fence() {}
