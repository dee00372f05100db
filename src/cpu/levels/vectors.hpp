// The widest vectors that the instruction set has, one number a lane.
#pragma once

#include <string.h>

#if defined(__GNUC__) && defined(__AVX__)
#include <immintrin.h>
#endif

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

using Flag = int;  // as wide as what it is computed with, for loops that vectorise

#if defined(__GNUC__)
#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class R>
struct Vectors;
template <>
struct Vectors<float> {
  static constexpr int lanes = vector_bytes / 4;
  typedef float V __attribute__((vector_size(vector_bytes)));
  typedef Flag Flags __attribute__((vector_size(vector_bytes)));  // of its lanes
};
template <>
struct Vectors<double> {
  static constexpr int lanes = vector_bytes / 8;
  typedef double V __attribute__((vector_size(vector_bytes)));
  typedef Flag Flags __attribute__((vector_size(vector_bytes / 2)));
};
#else
template <class R>
struct Vectors {
  using V = R;
  static constexpr int lanes = 1;
};
#endif

// A vector of doubles, from as many numbers.
using Doubles = Vectors<double>::V;

PYSTN_HD Doubles load_doubles(const double* from) {
  Doubles v;
  memcpy(&v, from, sizeof v);
  return v;
}
PYSTN_HD Doubles load_doubles(const float* from) {
#if defined(__GNUC__) && defined(__AVX512F__)  // compilers make two halves
  return Doubles(_mm512_cvtps_pd(_mm256_loadu_ps(from)));
#elif defined(__GNUC__) && defined(__AVX__)
  return Doubles(_mm256_cvtps_pd(_mm_loadu_ps(from)));
#elif defined(__GNUC__)
  typedef float Floats __attribute__((vector_size(sizeof(Doubles) / 2)));
  Floats v;
  memcpy(&v, from, sizeof v);
  return __builtin_convertvector(v, Doubles);
#else
  return *from;
#endif
}

}  // namespace pystn::PYSTN_LEVEL
