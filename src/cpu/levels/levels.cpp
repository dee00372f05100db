// Which instruction sets were built and which of them this processor runs. Compiled for the
// baseline: nothing here may need more than it asks for.
#include <string.h>

#include "job.hpp"

#if defined(__unix__)
#include <unistd.h>
#endif

#if defined(PYSTN_X86_LEVELS) && defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace pystn {

namespace portable {
extern const Level level;
}
#if defined(PYSTN_X86_LEVELS)
namespace v2 {
extern const Level level;
}
namespace v3 {
extern const Level level;
}
namespace v4 {
extern const Level level;
}
#endif

namespace {

#if defined(PYSTN_X86_LEVELS) && defined(_MSC_VER)
struct Features {
  bool v2, v3, v4;
  Features() {
    int one[4], seven[4];
    __cpuidex(one, 1, 0);
    __cpuidex(seven, 7, 0);
    const auto bit = [](int word, int i) { return (word >> i & 1) != 0; };
    const bool osxsave = bit(one[2], 27);
    const unsigned long long state = osxsave ? _xgetbv(0) : 0;
    v2 = bit(one[2], 0) && bit(one[2], 9) && bit(one[2], 19) && bit(one[2], 20) && bit(one[2], 23);
    v3 = v2 && (state & 6) == 6 && bit(one[2], 12) && bit(one[2], 22) && bit(one[2], 28) && bit(one[2], 29) &&
         bit(seven[1], 3) && bit(seven[1], 5) && bit(seven[1], 8);
    v4 = v3 && (state & 0xe6) == 0xe6 && bit(seven[1], 16) && bit(seven[1], 17) && bit(seven[1], 28) &&
         bit(seven[1], 30) && bit(seven[1], 31);
  }
};
#elif defined(PYSTN_X86_LEVELS)
// Single features: not every compiler knows the names of the levels.
struct Features {
  bool v2, v3, v4;
  Features() {
    __builtin_cpu_init();
    v2 = __builtin_cpu_supports("sse3") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1") &&
         __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    v3 = v2 && __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
    v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
};
#endif

struct Available {
  const Level* levels[4];
  const char* names[5];
  int count = 0;

  Available() {
#if defined(PYSTN_X86_LEVELS)
    const Features cpu;
    if (cpu.v4) add(&v4::level);
    if (cpu.v3) add(&v3::level);
    if (cpu.v2) add(&v2::level);
#endif
    add(&portable::level);
    names[count] = nullptr;
  }

  void add(const Level* level) {
    levels[count] = level;
    names[count++] = level->name;
  }
};

const Available& available() {
  static const Available found;
  return found;
}

}  // namespace

int64_t bytes_worth_streaming() {
  // An eighth of the last cache, which others use too: the smallest is what processors with separate caches for
  // groups of cores have, the largest what is better streamed wherever it would stay.
  constexpr int64_t least = int64_t(1) << 22, most = int64_t(1) << 24;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  const int64_t some = sysconf(_SC_LEVEL3_CACHE_SIZE) / 8;
  return some < least ? least : some > most ? most : some;
#else
  return least;
#endif
}

const Level* best_level() { return available().levels[0]; }

const Level* find_level(const char* name) {
  for (int i = 0; i < available().count; ++i)
    if (strcmp(available().names[i], name) == 0) return available().levels[i];
  return nullptr;
}

const char* const* level_names() { return available().names; }

}  // namespace pystn
