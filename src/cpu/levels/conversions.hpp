// Numbers copied in another type, pieces of memory that have them in one order: small types to float32, and back,
// rounded as elements.hpp has it.
#pragma once

#include "job.hpp"
#include "quads.hpp"

namespace pystn::PYSTN_LEVEL {

template <class T>
struct Conversion {
  static void widen(const ConversionJob& job, int64_t first, int64_t last) {
    const T* const from = static_cast<const T*>(job.small);
    float* const to = static_cast<float*>(job.wide);
    int64_t i = first;
#if defined(__AVX2__) && defined(__F16C__)
    if constexpr (sizeof(T) == 2)
      for (; i + 8 <= last; i += 8) {
        const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
        _mm256_storeu_ps(to + i, widened_8(eight, T()));
      }
#endif
    for (; i < last; ++i) to[i] = number_of(from[i]);
  }

  static void narrow(const ConversionJob& job, int64_t first, int64_t last) {
    const float* const from = static_cast<const float*>(job.wide);
    T* const to = static_cast<T*>(job.small);
    int64_t i = first;
#if PYSTN_QUADS == 4
    if constexpr (sizeof(T) == 2)
      for (; i + 16 <= last; i += 16) {
        const __m512i lanes = narrowed(_mm512_loadu_ps(from + i), T());
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm512_cvtepi32_epi16(lanes));
      }
#endif
    for (; i < last; ++i) assign(to[i], from[i]);
  }
};

// Numbers `first` to `last` of a job.
inline void convert(const ConversionJob& job, int64_t first, int64_t last) {
  const auto by = [&](auto conversion) {
    job.widens ? decltype(conversion)::widen(job, first, last) : decltype(conversion)::narrow(job, first, last);
  };
  switch (job.type) {
    case Element::f16:
      return by(Conversion<Half>());
    case Element::bf16:
      return by(Conversion<Bfloat>());
    case Element::u8:
      return by(Conversion<Byte>());
    case Element::i16:
      return by(Conversion<short>());
    case Element::u16:
      return by(Conversion<unsigned short>());
    default:
      return;  // the others are not small
  }
}

}  // namespace pystn::PYSTN_LEVEL
