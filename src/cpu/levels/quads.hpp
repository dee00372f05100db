// Vectors of small pixels, four lanes each: how they are read from memory, weighed and written. For pixels.hpp.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <type_traits>

#include "elements.hpp"
#include "job.hpp"

namespace pystn::PYSTN_LEVEL {

using Byte = unsigned char;

// Types of 8 or 16 bits.
template <class T>
constexpr bool is_small = sizeof(T) <= 2;
template <class T>
constexpr bool is_integer = std::is_integral<T>::value;

// The offset behind the last pixel in memory, of so many channels next to each other, in an image of two dimensions.
inline int64_t end_of_image(const SampleJob& job, int channels) {
  const int64_t row = job.input.axis[1];
  return (row > 0 ? (job.size[1] - 1) * row : 0) + (job.size[0] - 1) * job.input.axis[0] + channels;
}

// Four lanes for each of `pixels` pixels.
template <int pixels>
struct Quads {
  typedef float Vector __attribute__((vector_size(16 * pixels)));
};
template <int pixels>
using QuadVector = typename Quads<pixels>::Vector;

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define PYSTN_QUADS 4
#elif defined(__AVX2__)
#define PYSTN_QUADS 2
#else
#define PYSTN_QUADS 1
#endif

// Numbers rounded to integers, as far as those of T go: what is beyond all integers would become the least of them, as
// NaN does.
template <class T>
constexpr float largest = std::is_same<T, Byte>::value    ? 255.0f
                          : std::is_same<T, short>::value ? 32767.0f
                                                          : 65535.0f;
#if defined(__SSE2__)
template <class T>
PYSTN_HD __m128i integers(__m128 x) {
  return _mm_cvtps_epi32(_mm_min_ps(_mm_set1_ps(largest<T>), x));
}
#endif
#if defined(__AVX2__)
template <class T>
PYSTN_HD __m256i integers(__m256 x) {
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(largest<T>), x));
}
#endif
#if PYSTN_QUADS == 4
template <class T>
PYSTN_HD __m512i integers(__m512 x) {
  return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_set1_ps(largest<T>), x));
}
#endif

// The floats that 16 bits of each lane are, four lanes, eight or sixteen.
#if defined(__SSE2__)
PYSTN_HD __m128 widened(__m128i four, unsigned short) {
  return _mm_cvtepi32_ps(_mm_unpacklo_epi16(four, _mm_setzero_si128()));
}
PYSTN_HD __m128 widened(__m128i four, short) {
  return _mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(four, four), 16));
}
PYSTN_HD __m128 widened(__m128i four, Bfloat) {
  return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), four));
}
PYSTN_HD __m128 widened(__m128i four, Half) {
#if defined(__F16C__)
  return _mm_cvtph_ps(four);
#else
  unsigned short bits[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(bits), four);
  return _mm_setr_ps(half_to_float(bits[0]), half_to_float(bits[1]), half_to_float(bits[2]), half_to_float(bits[3]));
#endif
}
#endif
#if defined(__AVX2__) && defined(__F16C__)
PYSTN_HD __m256 widened_8(__m128i x, unsigned short) { return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(x)); }
PYSTN_HD __m256 widened_8(__m128i x, short) { return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(x)); }
PYSTN_HD __m256 widened_8(__m128i x, Half) { return _mm256_cvtph_ps(x); }
PYSTN_HD __m256 widened_8(__m128i x, Bfloat) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}

// And back.
PYSTN_HD __m128i packed_unsigned(__m256i x) {
  return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
PYSTN_HD __m128i packed_signed(__m256i x) {
  return _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
PYSTN_HD __m128i narrowed_8(__m256 x, unsigned short) { return packed_unsigned(integers<unsigned short>(x)); }
PYSTN_HD __m128i narrowed_8(__m256 x, short) {
  const __m256i numbers = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_ORD_Q));
  return packed_signed(_mm256_and_si256(integers<short>(x), numbers));
}
PYSTN_HD __m128i narrowed_8(__m256 x, Half) {
  const __m128i halves = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m128i nothing = _mm_or_si128(_mm_and_si128(halves, _mm_set1_epi16(short(0x8000))), _mm_set1_epi16(0x7e00));
  return _mm_blendv_epi8(halves, nothing, packed_signed(_mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q))));
}
PYSTN_HD __m128i narrowed_8(__m256 x, Bfloat) {
  const __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i nothing = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i is_nothing = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return packed_unsigned(_mm256_blendv_epi8(_mm256_srli_epi32(up, 16), nothing, is_nothing));
}
#endif
#if PYSTN_QUADS == 4
PYSTN_HD __m512 widened(__m256i x, unsigned short) { return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(x)); }
PYSTN_HD __m512 widened(__m256i x, short) { return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(x)); }
PYSTN_HD __m512 widened(__m256i x, Half) { return _mm512_cvtph_ps(x); }
PYSTN_HD __m512 widened(__m256i x, Bfloat) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// And back, in the low half of each lane.
PYSTN_HD __m512i narrowed(__m512 x, unsigned short) {
  return _mm512_max_epi32(integers<unsigned short>(x), _mm512_setzero_si512());
}
PYSTN_HD __m512i narrowed(__m512 x, short) {
  const __m512i numbers =
      _mm512_mask_mov_epi32(integers<short>(x), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_setzero_si512());
  return _mm512_and_si512(_mm512_cvtepi16_epi32(_mm512_cvtsepi32_epi16(numbers)), _mm512_set1_epi32(65535));
}
PYSTN_HD __m512i narrowed(__m512 x, Half) {
  const __m512i halves = _mm512_cvtepu16_epi32(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  const __m512i sign = _mm512_and_si512(halves, _mm512_set1_epi32(0x8000));
  return _mm512_mask_or_epi32(halves, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), sign, _mm512_set1_epi32(0x7e00));
}
PYSTN_HD __m512i narrowed(__m512 x, Bfloat) {
  const __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  return _mm512_mask_or_epi32(_mm512_srli_epi32(up, 16), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), high,
                              _mm512_set1_epi32(0x40));
}
#endif

template <int pixels>
struct QuadOf;

// Reads four elements for each pixel, each pixel's at its own offset; spreads a weight of each pixel
// over its lanes; stores the first C lanes of each pixel.
template <>
struct QuadOf<1> {
  using V = QuadVector<1>;
  static PYSTN_HD V load(const float* from, const int* offset) {
    V v;
    __builtin_memcpy(&v, from + offset[0], sizeof v);
    return v;
  }
  static PYSTN_HD V load(const Byte* from, const int* offset) {
#if defined(__SSE2__)
    int bytes;
    __builtin_memcpy(&bytes, from + offset[0], 4);
    const __m128i zero = _mm_setzero_si128();
    const __m128i words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), zero);
    return V(_mm_cvtepi32_ps(_mm_unpacklo_epi16(words, zero)));
#else
    V v;
    for (int l = 0; l < 4; ++l) v[l] = float(from[offset[0] + l]);
    return v;
#endif
  }
  template <class T>
  static PYSTN_HD V load(const T* from, const int* offset) {
#if defined(__SSE2__)
    return V(widened(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + offset[0])), T()));
#else
    V v;
    for (int l = 0; l < 4; ++l) v[l] = number_of(from[offset[0] + l]);
    return v;
#endif
  }
  static PYSTN_HD V spread(const float* weight) { return weight[0] - V{}; }
  template <int C, class T>
  static PYSTN_HD void store(T* to, const V& v) {
    for (int l = 0; l < C; ++l) assign(to[l], float(v[l]));
  }
  template <int C>
  static PYSTN_HD void store(float* to, const V& v) {
    __builtin_memcpy(to, &v, C * sizeof(float));
  }
  template <int C>
  static PYSTN_HD void store(Byte* to, const V& v) {
#if defined(__SSE2__)
    const __m128i words = _mm_packs_epi32(integers<Byte>(__m128(v)), _mm_setzero_si128());
    const int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    __builtin_memcpy(to, &bytes, C);
#else
    for (int l = 0; l < C; ++l) assign(to[l], float(v[l]));
#endif
  }
};

#if PYSTN_QUADS == 2
template <>
struct QuadOf<2> {
  using V = QuadVector<2>;
  static PYSTN_HD V load(const float* from, const int* offset) {
    return V(_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + offset[0])),
                                  _mm_loadu_ps(from + offset[1]), 1));
  }
  static PYSTN_HD V load(const Byte* from, const int* offset) {
    int bytes[2];
    for (int p = 0; p < 2; ++p) __builtin_memcpy(bytes + p, from + offset[p], 4);
    return V(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_insert_epi32(_mm_cvtsi32_si128(bytes[0]), bytes[1], 1))));
  }
  template <class T>
  static PYSTN_HD V load(const T* from, const int* offset) {
    int64_t pixel[2];
    for (int p = 0; p < 2; ++p) __builtin_memcpy(pixel + p, from + offset[p], 8);
    return V(widened_8(_mm_set_epi64x(pixel[1], pixel[0]), T()));
  }
  template <int C, class T>
  static PYSTN_HD void store(T* to, const V& v) {
    const __m128i pixels = narrowed_8(__m256(v), T());
    const int64_t first = _mm_cvtsi128_si64(pixels), second = _mm_extract_epi64(pixels, 1);
    __builtin_memcpy(to, &first, 4 * sizeof(T));
    __builtin_memcpy(to + C, &second, C * sizeof(T));
  }
  static PYSTN_HD V spread(const float* weight) {
    double both;
    __builtin_memcpy(&both, weight, sizeof both);
    return V(_mm256_permutevar_ps(_mm256_castpd_ps(_mm256_set1_pd(both)), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)));
  }
  template <int C>
  static PYSTN_HD void store(float* to, const V& v) {
    const __m128 second = _mm256_extractf128_ps(__m256(v), 1);
    _mm_storeu_ps(to, _mm256_castps256_ps128(__m256(v)));
    __builtin_memcpy(to + C, &second, C * sizeof(float));
  }
  template <int C>
  static PYSTN_HD void store(Byte* to, const V& v) {
    const __m256i numbers = integers<Byte>(__m256(v));
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
    const int64_t bytes = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
    const int first = int(bytes), second = int(bytes >> 32);
    __builtin_memcpy(to, &first, 4);
    __builtin_memcpy(to + C, &second, C);
  }
};
#endif

#if PYSTN_QUADS == 4
template <>
struct QuadOf<4> {
  using V = QuadVector<4>;
  static PYSTN_HD V load(const float* from, const int* offset) {
    const auto pixel = [&](int p) { return _mm_loadu_ps(from + offset[p]); };
    const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(pixel(0)), pixel(1), 1);
    const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(pixel(2)), pixel(3), 1);
    return V(_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1));
  }
  static PYSTN_HD V load(const Byte* from, const int* offset) {
    int bytes[4];
    for (int p = 0; p < 4; ++p) __builtin_memcpy(bytes + p, from + offset[p], 4);
    return V(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_setr_epi32(bytes[0], bytes[1], bytes[2], bytes[3]))));
  }
  template <class T>
  static PYSTN_HD V load(const T* from, const int* offset) {
    int64_t pixel[4];
    for (int p = 0; p < 4; ++p) __builtin_memcpy(pixel + p, from + offset[p], 8);
    return V(widened(_mm256_setr_epi64x(pixel[0], pixel[1], pixel[2], pixel[3]), T()));
  }
  template <int C, class T>
  static PYSTN_HD void store(T* to, const V& v) {
    alignas(64) int element[16];
    _mm512_store_si512(element, narrowed(__m512(v), T()));
    for (int l = 0; l < 16; ++l)
      if (l % 4 < C) __builtin_memcpy(to + l / 4 * C + l % 4, element + l, sizeof(T));
  }
  static PYSTN_HD V spread(const float* weight) {
    const __m512 four = _mm512_broadcast_f32x4(_mm_loadu_ps(weight));
    return V(_mm512_permutevar_ps(four, _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)));
  }
  template <int C>
  static PYSTN_HD void store(float* to, const V& v) {
    const __m512i packed = C == 2   ? _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0)
                           : C == 3 ? _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0, 0, 0, 0)
                                    : _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_mask_storeu_ps(to, __mmask16((1u << 4 * C) - 1), _mm512_permutexvar_ps(packed, __m512(v)));
  }
  template <int C>
  static PYSTN_HD void store(Byte* to, const V& v) {
    const __m512i numbers = _mm512_max_epi32(integers<Byte>(__m512(v)), _mm512_setzero_si512());
    const __m128i bytes = _mm512_cvtusepi32_epi8(numbers);
    const __m128i packed = C == 2   ? _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1)
                           : C == 3 ? _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1)
                                    : _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm_mask_storeu_epi8(to, __mmask16((1u << 4 * C) - 1), _mm_shuffle_epi8(bytes, packed));
  }
};
#endif

#if PYSTN_QUADS == 4
// Two taps in a row of each of four pixels, C channels of float32 next to each other: one load a pixel. The
// four pixels' channels are packed, as they are in the output.
template <int C>
struct PairsOf {
  using V = QuadVector<4>;
  static constexpr unsigned lanes = (1u << 4 * C) - 1;

  static PYSTN_HD __m512 two(const float* from, const int* offset) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(from + offset[0])),
                              _mm256_loadu_ps(from + offset[1]), 1);
  }
  static PYSTN_HD void load(const float* from, const int* offset, V (&tap)[2]) {
    const __m512 low = two(from, offset), high = two(from, offset + 2);
    if constexpr (C == 4) {
      tap[0] = V(_mm512_shuffle_f32x4(low, high, 0x88));
      tap[1] = V(_mm512_shuffle_f32x4(low, high, 0xdd));
      return;
    }
    const __m512i first = C == 2 ? _mm512_setr_epi32(0, 1, 8, 9, 16, 17, 24, 25, 0, 0, 0, 0, 0, 0, 0, 0)
                                 : _mm512_setr_epi32(0, 1, 2, 8, 9, 10, 16, 17, 18, 24, 25, 26, 0, 0, 0, 0);
    tap[0] = V(_mm512_permutex2var_ps(low, first, high));
    tap[1] = V(_mm512_permutex2var_ps(low, _mm512_add_epi32(first, _mm512_set1_epi32(C)), high));
  }
  static PYSTN_HD V spread(const float* weight) {
    const __m512i pixel = C == 2   ? _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0)
                          : C == 3 ? _mm512_setr_epi32(0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0, 0, 0, 0)
                                   : _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return V(_mm512_permutexvar_ps(pixel, _mm512_castps128_ps512(_mm_loadu_ps(weight))));
  }
  static PYSTN_HD void store(float* to, const V& v) { _mm512_mask_storeu_ps(to, __mmask16(lanes), __m512(v)); }
};
constexpr bool has_pairs = true;
#else
constexpr bool has_pairs = false;
#endif

}  // namespace pystn::PYSTN_LEVEL
