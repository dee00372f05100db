// The subset of CUDA that the kernels use, on the CPU: blocks run one after the other, and so do the threads
// of a block, each until it meets a barrier. What a barrier meets when no thread can go on is an error.
//
// A fiber runs thread after thread. A thread that waits keeps its fiber, and another fiber goes on with the
// threads that have not begun; so a kernel without barriers is a plain loop.
#pragma once

#include <link.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
// Thread-local: static memory of a shared object that can be found as a whole, and spoilt before each block.
#define __shared__ static thread_local
#define __syncthreads() host::block_barrier(__FILE__, __LINE__)
#define __syncwarp \
  host::WarpBarrier { __FILE__, __LINE__ }
#define __shfl_sync(...) host::shuffle(__FILE__, __LINE__, host::Lane::absolute, __VA_ARGS__)
#define __shfl_down_sync(...) host::shuffle(__FILE__, __LINE__, host::Lane::down, __VA_ARGS__)
#define __shfl_up_sync(...) host::shuffle(__FILE__, __LINE__, host::Lane::up, __VA_ARGS__)
#define __shfl_xor_sync(...) host::shuffle(__FILE__, __LINE__, host::Lane::exclusive_or, __VA_ARGS__)
#define __ballot_sync(...) host::ballot(__FILE__, __LINE__, __VA_ARGS__)

// All shared objects of a process have one state, and with it the fibers' stacks: inline variables that are visible.
#pragma GCC visibility push(default)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
static constexpr int warpSize = 32;

namespace host {

using Seed = unsigned long long;

constexpr int most_threads = 1024;
constexpr size_t stack_size = 256 << 10;
constexpr size_t most_shared_memory = 48 << 10;
constexpr unsigned whole_warp = 0xffffffffu;

enum class State { fresh, running, ready, at_block_barrier, at_warp_barrier, done };

// What a thread waits for, and what it hands to the other lanes of its warp.
struct Thread {
  State state;
  int fiber;
  uint3 index;
  const char* file;
  int line;
  unsigned mask;  // of the lanes that have to meet
  int source;     // lane whose value is received
  unsigned long long value, received;
  unsigned votes;
};

struct Fiber {
  jmp_buf context;
  void* stack;
  bool started;
};

inline Thread threads[most_threads];
inline Fiber fibers[most_threads];
inline int idle[most_threads];  // fibers without a thread, the last one first
inline int idle_count;
inline int order[most_threads];  // of the threads of this block
inline int thread_count, fresh_from, current;
inline jmp_buf scheduler;
inline void (*body)();
inline char message[400];

}  // namespace host

#pragma GCC visibility pop

namespace host {

// ---- Errors: the first one is what the launch reports

template <class... T>
void fail(const char* format, T... values) {
  if (!message[0]) snprintf(message, sizeof message, format, values...);
}

// A thread that fails never comes back.
[[noreturn]] inline void abandon() {
  threads[current].state = State::done;
  _longjmp(scheduler, 1);
}

// ---- Order: permutations that follow from a seed

inline Seed next_random(Seed& state) {  // splitmix64
  Seed z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

inline void shuffle_order(Seed& seed) {
  for (int i = 0; i < thread_count; ++i) order[i] = i;
  for (int i = thread_count - 1; i > 0; --i) {
    const int j = int((next_random(seed) >> 32) * Seed(i + 1) >> 32), moved = order[i];
    order[i] = order[j], order[j] = moved;
  }
}

// ---- Threads and fibers: ucontext makes a stack, and _longjmp goes to and fro, without system calls

__attribute__((noinline)) inline void go(jmp_buf from, jmp_buf to) {
  if (!_setjmp(from)) _longjmp(to, 1);
}

inline void begin(int thread) {
  current = thread;
  threadIdx = threads[thread].index;
}

// The fiber goes back to the idle ones when no thread is left to begin.
inline void run_fresh_threads(int fiber) {
  while (true) {
    while (fresh_from < thread_count && !message[0]) {
      const int thread = order[fresh_from++];
      threads[thread].state = State::running;
      threads[thread].fiber = fiber;
      begin(thread);
      body();
      threads[thread].state = State::done;
    }
    idle[idle_count++] = fiber;
    go(fibers[fiber].context, scheduler);
  }
}

inline void start(int fiber) {
  Fiber& f = fibers[fiber];
  if (!f.stack) {
    f.stack = mmap(nullptr, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(f.stack, 4096, PROT_NONE);  // an overflow stops here
  }
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = f.stack;
  context.uc_stack.ss_size = stack_size;
  makecontext(&context, reinterpret_cast<void (*)()>(run_fresh_threads), 1, fiber);
  f.started = true;
  if (!_setjmp(scheduler)) setcontext(&context);
}

inline void wait(State state, const char* file, int line, unsigned mask) {
  Thread& t = threads[current];
  t.state = state, t.file = file, t.line = line, t.mask = mask;
  go(fibers[t.fiber].context, scheduler);
  if (message[0]) abandon();
}

inline bool same_place(const Thread& a, const Thread& b) {
  return a.state == b.state && a.line == b.line && a.file == b.file && a.mask == b.mask;
}

// All threads of the block are at one and the same __syncthreads.
inline bool release_block() {
  for (int i = 0; i < thread_count; ++i)
    if (threads[i].state != State::at_block_barrier || !same_place(threads[i], threads[0])) return false;
  for (int i = 0; i < thread_count; ++i) threads[i].state = State::ready;
  return true;
}

// The lanes that this thread waits for are where it is.
inline bool release_warp(int thread) {
  const Thread& t = threads[thread];
  Thread* warp = threads + thread / warpSize * warpSize;
  const int lanes = thread_count - int(warp - threads);
  unsigned votes = 0;
  for (int lane = 0; lane < warpSize; ++lane) {
    if (!(t.mask >> lane & 1)) continue;
    if (lane >= lanes || !same_place(warp[lane], t)) return false;
    votes |= unsigned(warp[lane].value != 0) << lane;
  }
  for (int lane = 0; lane < warpSize; ++lane) {
    if (!(t.mask >> lane & 1)) continue;
    warp[lane].received = warp[warp[lane].source].value;
    warp[lane].votes = votes;
    warp[lane].state = State::ready;
  }
  return true;
}

inline bool release() {
  bool any = release_block();
  for (int i = 0; i < thread_count; ++i)
    if (threads[i].state == State::at_warp_barrier) any |= release_warp(i);
  return any;
}

// Of this shared object.
struct SharedMemory {
  void* start;
  size_t size;
};
static SharedMemory shared_memory;
static thread_local char in_shared_memory;

inline int find_shared_memory(dl_phdr_info* object, size_t, void*) {
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const char* start = static_cast<char*>(object->dlpi_tls_data);
    const size_t size = object->dlpi_phdr[i].p_memsz;
    if (object->dlpi_phdr[i].p_type != PT_TLS || !start) continue;
    if (&in_shared_memory < start || &in_shared_memory >= start + size) continue;
    shared_memory = {object->dlpi_tls_data, size};
    return 1;
  }
  return 0;
}

inline void report_divergence() {
  for (int i = 0; i < thread_count; ++i) {
    const Thread& a = threads[i];
    if (a.state == State::done) continue;
    const char* what = a.state == State::at_block_barrier ? "a barrier of the block" : "a barrier of a warp";
    for (int j = 0; j < thread_count; ++j) {
      const Thread& b = threads[j];
      if (b.state == State::done)
        return fail("diverged: thread %d waits at %s, %s:%d, and thread %d has ended", i, what, a.file, a.line, j);
      if (!same_place(a, b))
        return fail("diverged: thread %d waits at %s, %s:%d, and thread %d at %s:%d", i, what, a.file, a.line, j,
                    b.file, b.line);
    }
    return fail("diverged: thread %d waits at %s, %s:%d, for lanes that are not there", i, what, a.file, a.line);
  }
}

inline void run_block(Seed& seed) {
  memset(shared_memory.start, 0xff, shared_memory.size);
  shuffle_order(seed);
  for (int i = 0; i < thread_count; ++i) threads[i].state = State::fresh;
  fresh_from = 0;
  while (fresh_from < thread_count && !message[0]) {
    const int fiber = idle[--idle_count];
    if (fibers[fiber].started)
      go(scheduler, fibers[fiber].context);
    else
      start(fiber);
  }
  while (!message[0] && release()) {
    for (int i = 0; i < thread_count && !message[0]; ++i) {
      Thread& t = threads[order[i]];
      if (t.state != State::ready) continue;
      t.state = State::running;
      begin(order[i]);
      go(scheduler, fibers[t.fiber].context);
    }
  }
  for (int i = 0; i < thread_count && !message[0]; ++i)
    if (threads[i].state != State::done) report_divergence();
}

// ---- What kernels call

inline void block_barrier(const char* file, int line) { wait(State::at_block_barrier, file, line, 0); }

inline void meet(const char* file, int line, unsigned mask) {
  if (!(mask >> current % warpSize & 1)) {
    fail("%s:%d: thread %d is not in its own mask, %08x", file, line, current, mask);
    abandon();
  }
  wait(State::at_warp_barrier, file, line, mask);
}

struct WarpBarrier {
  const char* file;
  int line;

  void operator()(unsigned mask = whole_warp) const {
    threads[current].source = current % warpSize;
    meet(file, line, mask);
  }
};

enum class Lane { absolute, down, up, exclusive_or };

template <class T>
T shuffle(const char* file, int line, Lane lane, unsigned mask, T value, int by, int width = warpSize) {
  static_assert(sizeof(T) <= 8, "shuffles exchange at most 8 bytes");
  Thread& t = threads[current];
  const int self = current % warpSize, first = self & ~(width - 1);
  int source = lane == Lane::absolute ? first + (by & (width - 1))
               : lane == Lane::down   ? self + by
               : lane == Lane::up     ? self - by
                                      : self ^ by;
  if (source < first || source >= first + width) source = self;
  if (!(mask >> source & 1)) {
    fail("%s:%d: thread %d asks for lane %d, which is not in the mask, %08x", file, line, current, source, mask);
    abandon();
  }
  t.source = source;
  t.value = 0;
  memcpy(&t.value, &value, sizeof(T));
  meet(file, line, mask);
  memcpy(&value, &threads[current].received, sizeof(T));
  return value;
}

inline unsigned ballot(const char* file, int line, unsigned mask, int predicate) {
  threads[current].value = predicate != 0;
  threads[current].source = current % warpSize;
  meet(file, line, mask);
  return threads[current].votes;
}

// ---- Launches

template <class F>
struct Kernel;

template <class... T>
struct Kernel<void (*)(T...)> {
  inline static void (*function)(T...);
  inline static void** arguments;  // in the memory of the caller

  template <size_t... I>
  static void call(std::index_sequence<I...>) {
    function(*static_cast<T*>(arguments[I])...);
  }
  static void run() { call(std::index_sequence_for<T...>()); }

  static bool takes(const size_t* given, int count) {
    static_assert((__is_trivially_copyable(T) && ...), "arguments are copied as bytes");
    const size_t sizes[] = {sizeof(T)..., 0};
    if (count != int(sizeof...(T))) fail("the kernel has %d parameters, got %d", int(sizeof...(T)), count);
    for (int i = 0; i < int(sizeof...(T)) && !message[0]; ++i)
      if (sizes[i] != given[i]) fail("parameter %d has %zu bytes, got %zu", i, sizes[i], given[i]);
    return !message[0];
  }
};

inline unsigned long long divisor(unsigned long long a, unsigned long long b) { return b ? divisor(b, a % b) : a; }

inline bool within_limits(const unsigned* grid, const unsigned* block) {
  const unsigned long long of_block = 1ull * block[0] * block[1] * block[2];
  if (of_block == 0 || of_block > most_threads || block[0] > 1024 || block[1] > 1024 || block[2] > 64)
    fail("no block of CUDA: %u x %u x %u", block[0], block[1], block[2]);
  const bool empty = grid[0] == 0 || grid[1] == 0 || grid[2] == 0;
  if (empty || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535)
    fail("no grid of CUDA: %u x %u x %u", grid[0], grid[1], grid[2]);
  return !message[0];
}

inline void prepare_fibers() {
  if (idle_count == most_threads) return;  // else this is the first launch, or the last one left threads waiting
  for (int i = 0; i < most_threads; ++i) idle[i] = i, fibers[i].started = false;
  idle_count = most_threads;
}

inline void run_blocks(Seed seed) {
  const unsigned long long count = 1ull * gridDim.x * gridDim.y * gridDim.z;
  unsigned long long step = next_random(seed) % 0x7fffffff, block = next_random(seed) % count;
  while (divisor(step, count) != 1) ++step;  // so that every block has its turn
  for (unsigned long long i = 0; i < count && !message[0]; ++i) {
    block = (block + step) % count;
    blockIdx = {unsigned(block % gridDim.x), unsigned(block / gridDim.x % gridDim.y),
                unsigned(block / gridDim.x / gridDim.y)};
    run_block(seed);
  }
}

// Null, or what went wrong.
template <class... T>
const char* launch(void (*kernel)(T...), const unsigned* grid, const unsigned* block, void** arguments,
                   const size_t* sizes, int count, Seed seed) {
  using K = Kernel<void (*)(T...)>;
  message[0] = 0;
  if (!within_limits(grid, block) || !K::takes(sizes, count)) return message;
  K::function = kernel, K::arguments = arguments, body = K::run;
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  thread_count = int(block[0] * block[1] * block[2]);
  for (unsigned i = 0; i < unsigned(thread_count); ++i)
    threads[i].index = {i % block[0], i / block[0] % block[1], i / block[0] / block[1]};
  in_shared_memory = 0;  // it exists once it has been used
  dl_iterate_phdr(find_shared_memory, nullptr);
  if (shared_memory.size > most_shared_memory) fail("%zu bytes of shared memory", shared_memory.size);
  prepare_fibers();
  run_blocks(seed);
  return message[0] ? message : nullptr;
}

}  // namespace host

// ---- Functions of the device: only one thread runs at a time

template <class T>
T __ldg(const T* address) {
  return *address;
}

template <class T, class F>
T replaced(T* address, F of) {
  const T before = *address;
  *address = of(before);
  return before;
}
#define HOST_ATOMIC(name, T, expression)                                 \
  inline T name(T* address, T value) {                                   \
    return replaced(address, [=](T before) -> T { return expression; }); \
  }
HOST_ATOMIC(atomicAdd, int, before + value)
HOST_ATOMIC(atomicAdd, unsigned, before + value)
HOST_ATOMIC(atomicAdd, unsigned long long, before + value)
HOST_ATOMIC(atomicAdd, float, before + value)
HOST_ATOMIC(atomicAdd, double, before + value)
HOST_ATOMIC(atomicOr, int, before | value)
HOST_ATOMIC(atomicOr, unsigned, before | value)
HOST_ATOMIC(atomicOr, unsigned long long, before | value)
HOST_ATOMIC(atomicAnd, unsigned, before& value)
HOST_ATOMIC(atomicMax, int, before > value ? before : value)
HOST_ATOMIC(atomicMax, unsigned, before > value ? before : value)
HOST_ATOMIC(atomicMax, unsigned long long, before > value ? before : value)
HOST_ATOMIC(atomicMin, int, before < value ? before : value)
HOST_ATOMIC(atomicMin, unsigned, before < value ? before : value)
HOST_ATOMIC(atomicMin, unsigned long long, before < value ? before : value)
#undef HOST_ATOMIC

template <class T>
T atomicExch(T* address, T value) {
  return replaced(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* address, T expected, T value) {
  return replaced(address, [=](T before) { return before == expected ? value : before; });
}

inline void __threadfence() {}
inline void __threadfence_block() {}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }

template <class To, class From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
inline int __float_as_int(float x) { return same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
inline float __int_as_float(int x) { return same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
