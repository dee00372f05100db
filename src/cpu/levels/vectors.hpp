// The widest vectors that the instruction set has, one number a lane.
#pragma once

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

}  // namespace pystn::PYSTN_LEVEL
