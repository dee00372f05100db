// What differs between the compilers that read these headers: the host's C++ compiler, once per
// instruction set, and NVRTC. Everything else in core/ is plain C++17 without the standard library.
//
// All code lives in a namespace of its own per instruction set (PYSTN_LEVEL). Without it the linker
// would merge inline functions of one name, and AVX-512 code could run on a processor without it.
#pragma once

#ifndef PYSTN_LEVEL
#if defined(__CUDACC__)
#define PYSTN_LEVEL device
#else
#define PYSTN_LEVEL portable
#endif
#endif

#if defined(__CUDACC__)
#define PYSTN_HD __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define PYSTN_HD __forceinline
#else
#define PYSTN_HD inline __attribute__((always_inline))
#endif

// For what is large and called from many places.
#if defined(_MSC_VER)
#define PYSTN_APART __declspec(noinline)
#else
#define PYSTN_APART __attribute__((noinline))
#endif

// Before a loop that is to be unrolled, whole or so many turns at a time.
#if defined(__CUDACC__)
#define PYSTN_PRAGMA(text) _Pragma(#text)
#define PYSTN_UNROLL PYSTN_PRAGMA(unroll)
#define PYSTN_UNROLL_BY(turns) PYSTN_PRAGMA(unroll turns)
#else
#define PYSTN_UNROLL
#define PYSTN_UNROLL_BY(turns)
#endif

#if !defined(__CUDACC_RTC__)
#include <math.h>
#endif

namespace pystn::PYSTN_LEVEL {

using Index = long long;

PYSTN_HD float floor_of(float x) { return ::floorf(x); }
PYSTN_HD double floor_of(double x) { return ::floor(x); }
// Ties to even, the default rounding mode.
PYSTN_HD float round_of(float x) { return ::rintf(x); }
PYSTN_HD double round_of(double x) { return ::rint(x); }
PYSTN_HD float remainder_of(float x, float period) { return ::fmodf(x, period); }
PYSTN_HD double remainder_of(double x, double period) { return ::fmod(x, period); }
PYSTN_HD float sin_of(float x) { return ::sinf(x); }
PYSTN_HD double sin_of(double x) { return ::sin(x); }
PYSTN_HD float cos_of(float x) { return ::cosf(x); }
PYSTN_HD double cos_of(double x) { return ::cos(x); }

PYSTN_HD float absolute(float x) { return ::fabsf(x); }
PYSTN_HD double absolute(double x) { return ::fabs(x); }

// False for NaN and the infinities; needs a compiler that honours them (no -ffast-math).
template <class R>
PYSTN_HD bool is_finite(R x) {
  return x - x == R(0);
}

template <class R>
struct Limits;
template <>
struct Limits<float> {
  static constexpr float epsilon = 1.1920928955078125e-07f;
  static constexpr float quarter_of_largest = 8.5070591730234616e+37f;
};
template <>
struct Limits<double> {
  static constexpr double epsilon = 2.220446049250313e-16;
  static constexpr double quarter_of_largest = 4.4942328371557893e+307;
};

template <class R>
PYSTN_HD R infinity() {
  return Limits<R>::quarter_of_largest * R(8);
}

}  // namespace pystn::PYSTN_LEVEL
