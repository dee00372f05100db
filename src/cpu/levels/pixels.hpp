// The forward pass of images whose pixels are few numbers next to each other: float32 or a small type, one of 8 or 16
// bits, with two to four channels; and of planes of a small type. Linear or with four taps, float32 with three, six and
// eight too.
//
// A pixel is four lanes of a vector, its channels and what follows them in memory; a vector has one,
// two or four output pixels. In planes lanes are output pixels, and so they are for small types on
// AVX-512, with a vector for each channel. Only where all taps are in the image, and what is read beyond
// them is; where taps outside read 0 other pixels take those inside, and else go the way of sampling.hpp.
// The sums are made in its order, to the same bits.
#pragma once

#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define PYSTN_PIXELS 1

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <type_traits>

#include "stream.hpp"
#include "usual_taps.hpp"

namespace pystn::PYSTN_LEVEL {

using Byte = unsigned char;

// Types of 8 or 16 bits.
template <class T>
constexpr bool is_small = sizeof(T) <= 2;
template <class T>
constexpr bool is_integer = std::is_integral<T>::value;

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
  const __m512i numbers = _mm512_max_epi32(_mm512_cvtps_epi32(x), _mm512_setzero_si512());
  return _mm512_min_epi32(numbers, _mm512_set1_epi32(65535));
}
PYSTN_HD __m512i narrowed(__m512 x, short) {
  const __m512i numbers =
      _mm512_mask_mov_epi32(_mm512_cvtps_epi32(x), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_setzero_si512());
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
    const __m128i words = _mm_packs_epi32(_mm_cvtps_epi32(__m128(v)), _mm_setzero_si128());
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
    for (int l = 0; l < 8; ++l)
      if (l % 4 < C) assign(to[l / 4 * C + l % 4], float(v[l]));
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
    const __m256i numbers = _mm256_cvtps_epi32(__m256(v));
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
    const __m512i numbers = _mm512_max_epi32(_mm512_cvtps_epi32(__m512(v)), _mm512_setzero_si512());
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

#if PYSTN_QUADS == 4
// Small elements of 16 pixels, one a lane: of C channels next to each other, S taps on each axis, which are neighbours.
template <class T, int S, int C>
struct LanesOfPixels {
  // The taps of a row are so many numbers of four bytes, in each lane.
  static constexpr int size = int(sizeof(T)), in_word = 4 / size, words = (S * C + in_word - 1) / in_word;

  static PYSTN_HD void gather(const T* from, __m512i first, __mmask16 some, __m512i (&word)[words]) {
    const __m512i zero = _mm512_setzero_si512();
    const __mmask8 low = __mmask8(some), high = __mmask8(some >> 8);
    for (int w = 0; w + 1 < words; w += 2) {
      const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      const __m256i second = _mm512_extracti64x4_epi64(first, 1);
      const T* const at = from + in_word * w;
      const __m512i a = _mm512_mask_i32gather_epi64(zero, low, _mm512_castsi512_si256(first), at, size);
      const __m512i b = _mm512_mask_i32gather_epi64(zero, high, second, at, size);
      word[w] = _mm512_permutex2var_epi32(a, even, b);
      word[w + 1] = _mm512_permutex2var_epi32(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
    }
    if (words % 2) word[words - 1] = _mm512_mask_i32gather_epi32(zero, some, first, from + in_word * (words - 1), size);
  }

  // Element k of each lane's four bytes.
  static PYSTN_HD __m512 element(__m512i word, int k) {
    if constexpr (size == 2) {
      return widened(_mm512_cvtepi32_epi16(k ? _mm512_srli_epi32(word, 16) : word), T());
    } else {
      const __m512i of_lane = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
      const __m512i others = _mm512_set1_epi32(int(0x80808000));
      if (k == 0) return _mm512_cvtepi32_ps(_mm512_and_si512(word, _mm512_set1_epi32(255)));
      if (k == 3) return _mm512_cvtepi32_ps(_mm512_srli_epi32(word, 24));
      const __m512i at = _mm512_or_si512(_mm512_add_epi32(of_lane, _mm512_set1_epi32(k)), others);
      return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(word, at));
    }
  }

  static PYSTN_HD void store(T* to, const __m512 (&sum)[C], int count) {
    if constexpr (size == 1)
      store_bytes(to, sum, count);
    else
      store_pairs(to, sum, count);
  }

  // Stores `count` pixels, rounded.
  static PYSTN_HD void store_bytes(Byte* to, const __m512 (&sum)[C], int count) {
    const __m512i zero = _mm512_setzero_si512();
    __m512i c[4];
    for (int k = 0; k < 4; ++k) c[k] = k < C ? _mm512_cvtps_epi32(sum[k < C ? k : 0]) : zero;
    // Four pixels of each channel in turn, then the channels of each pixel.
    const __m512i planes = _mm512_packus_epi16(_mm512_packs_epi32(c[0], c[1]), _mm512_packs_epi32(c[2], c[3]));
    const __mmask64 bytes = count < 16 ? (__mmask64(1) << C * count) - 1 : ~__mmask64(0) >> (64 - 16 * C);
    if constexpr (C == 1) {
      const __m512i lanes = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
      const __m128i packed = _mm512_castsi512_si128(_mm512_permutexvar_epi32(lanes, planes));
      _mm_mask_storeu_epi8(to, __mmask16(bytes), packed);
    } else {
      const __m128i turned = C == 2   ? _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, -1, -1, -1, -1, -1, -1, -1, -1)
                             : C == 3 ? _mm_setr_epi8(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, -1, -1, -1, -1)
                                      : _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      const __m512i lanes = C == 2   ? _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0)
                            : C == 3 ? _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0, 0, 0, 0)
                                     : _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      const __m512i pixels = _mm512_shuffle_epi8(planes, _mm512_broadcast_i32x4(turned));
      const __m512i packed = C < 4 ? _mm512_permutexvar_epi32(lanes, pixels) : pixels;
      C == 4 && count >= 16 ? _mm512_storeu_si512(to, packed) : _mm512_mask_storeu_epi8(to, bytes, packed);
    }
  }

  // The same of 16 bits: channels 0 and 1 of a pixel are a number of 32 bits, and so are 2 and 3.
  static PYSTN_HD void store_pairs(T* to, const __m512 (&sum)[C], int count) {
    const int pixels = count < 16 ? count : 16;
    __m512i c[C];
    for (int k = 0; k < C; ++k) c[k] = narrowed(sum[k], T());
    if constexpr (C == 1) {
      _mm256_mask_storeu_epi16(to, __mmask16((1u << pixels) - 1), _mm512_cvtepi32_epi16(c[0]));
    } else {
      const __m512i first = _mm512_or_si512(c[0], _mm512_slli_epi32(c[1], 16));
      if constexpr (C == 2) {
        _mm512_mask_storeu_epi32(to, __mmask16((1u << pixels) - 1), first);
      } else if constexpr (C == 3) {
        // Elements 2 p and 2 p + 1 of `first` are the first channels of pixel p, element 2 p of c[2] is the third.
        alignas(64) static constexpr unsigned short lower[32] = {0,  1,  32, 2,  3,  34, 4,  5,  36, 6,  7,
                                                                 38, 8,  9,  40, 10, 11, 42, 12, 13, 44, 14,
                                                                 15, 46, 16, 17, 48, 18, 19, 50, 20, 21};
        alignas(64) static constexpr unsigned short upper[32] = {52, 22, 23, 54, 24, 25, 56, 26,
                                                                 27, 58, 28, 29, 60, 30, 31, 62};
        const __m512i a = _mm512_permutex2var_epi16(first, _mm512_load_si512(lower), c[2]);
        const __m512i b = _mm512_permutex2var_epi16(first, _mm512_load_si512(upper), c[2]);
        const uint64_t elements = (uint64_t(1) << 3 * pixels) - 1;
        _mm512_mask_storeu_epi16(to, __mmask32(elements), a);
        _mm512_mask_storeu_epi16(to + 32, __mmask32(elements >> 32), b);
      } else {
        const __m512i second = _mm512_or_si512(c[2], _mm512_slli_epi32(c[3], 16));
        const __m512i order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const __m512i a = _mm512_permutex2var_epi32(first, order, second);
        const __m512i b = _mm512_permutex2var_epi32(first, _mm512_add_epi32(order, _mm512_set1_epi32(8)), second);
        const unsigned numbers = pixels < 16 ? (1u << 2 * pixels) - 1 : ~0u;
        _mm512_mask_storeu_epi32(to, __mmask16(numbers), a);
        _mm512_mask_storeu_epi32(to + 32, __mmask16(numbers >> 16), b);
      }
    }
  }

  // Which lanes read what: columns k and rows j of their taps count, row j is read.
  struct Masks {
    __mmask16 column[S], row[S], read[S];
  };

  // A product where a tap counts: others may be no numbers.
  template <bool whole>
  static PYSTN_HD __m512 weighted(__m512 x, const float* weight, __mmask16 counts) {
    const __m512 w = _mm512_loadu_ps(weight);
    return whole ? _mm512_mul_ps(x, w) : _mm512_maskz_mul_ps(counts, x, w);
  }

  template <bool whole, class Taps>
  static PYSTN_HD void sum_taps(const T* image, int row, const Taps& taps, int i, const Masks& some, __m512 (&sum)[C]) {
    const __m512i first = _mm512_loadu_si512(taps.first + i);
    for (int j = 0; j < S; ++j) {
      __m512i word[words];
      __m512 inner[C];
      gather(image + int64_t(j) * row, first, whole ? __mmask16(0xffff) : some.read[j], word);
      for (int k = 0; k < S; ++k)
        for (int c = 0; c < C; ++c) {
          const int at = k * C + c;
          const __m512 tap = element(word[at / in_word], at % in_word);
          if constexpr (S == 2) {
            const __m512 term = weighted<whole>(tap, taps.product[j * S + k] + i, some.row[j] & some.column[k]);
            sum[c] = j + k ? _mm512_add_ps(sum[c], term) : term;
          } else {
            const __m512 term = weighted<whole>(tap, taps.w[0][k] + i, some.column[k]);
            inner[c] = k ? _mm512_add_ps(inner[c], term) : term;
          }
        }
      for (int c = 0; S > 2 && c < C; ++c) {
        const __m512 term = weighted<whole>(inner[c], taps.w[1][j] + i, some.row[j]);
        sum[c] = j ? _mm512_add_ps(sum[c], term) : term;
      }
    }
  }

  // Where taps outside read 0. What is beside a row may be read, for nothing, but not what is beside the image: returns
  // the pixels that would.
  template <class Taps>
  static PYSTN_HD __mmask16 mask_dropping(const SampleJob& job, const Taps& taps, int i, Masks& some) {
    const int row = int(job.input.axis[1]), rows = int(job.size[1] - 1) * row;
    const __m512i low = _mm512_set1_epi32(rows < 0 ? rows : 0);
    const __m512i high = _mm512_set1_epi32((rows < 0 ? 0 : rows) + int(job.size[0]) * C - in_word * words);
    const __m512i first = _mm512_loadu_si512(taps.first + i);
    const auto inside = [&](int a, int k) __attribute__((always_inline)) {
      const __m512i cell = _mm512_add_epi32(_mm512_loadu_si512(taps.cell[a] + i), _mm512_set1_epi32(k));
      __mmask16 in = _mm512_cmplt_epu32_mask(cell, _mm512_set1_epi32(int(job.size[a])));
      if constexpr (S > 2 && !is_integer<T>)  // what is not read may be no number
        in &= _mm512_cmp_ps_mask(_mm512_loadu_ps(taps.w[a][k] + i), _mm512_setzero_ps(), _CMP_NEQ_UQ);
      return in;
    };
    __mmask16 any = 0, beside = 0;
    for (int k = 0; k < S; ++k) any |= some.column[k] = inside(0, k);
    for (int j = 0; j < S; ++j) {
      const __m512i at = _mm512_add_epi32(first, _mm512_set1_epi32(j * row));
      const __mmask16 allowed = _mm512_cmple_epi32_mask(low, at) & _mm512_cmple_epi32_mask(at, high);
      some.row[j] = inside(1, j);
      some.read[j] = some.row[j] & any & allowed;
      beside |= some.row[j] & any & ~allowed;
    }
    return beside;
  }

  // Pixels of one row, of `taps` from i on: those that are plain or dark, and the others if their taps drop. Those that
  // are left have their bits returned. Apart, or compilers load their constants again for each block.
  template <class Taps>
  static PYSTN_APART Bits put(const SampleJob& job, const double* fill, const T* image, const Taps& taps, int i,
                              int count, T* out) {
    const int row = int(job.input.axis[1]);
    Bits left = 0;
    __m512 outside[C];
    for (int c = 0; c < C; ++c) outside[c] = _mm512_set1_ps(fill ? float(fill[c]) : 0.0f);
    for (int at = 0; at < count; at += 16) {
      const auto put_sum = [&](auto whole, const Masks& some, __mmask16 dark) __attribute__((always_inline)) {
        __m512 sum[C];
        sum_taps<whole.value>(image, row, taps, i + at, some, sum);
        for (int c = 0; !whole.value && c < C; ++c) sum[c] = _mm512_mask_mov_ps(sum[c], dark, outside[c]);
        store(out + at * C, sum, count - at);
      };
      const auto lanes = [&](const Flag* flags) __attribute__((always_inline)) {
        return _mm512_test_epi32_mask(_mm512_loadu_si512(flags + i + at), _mm512_set1_epi32(1));
      };
      if (taps.all || lanes(taps.plain) == 0xffff) {
        put_sum(std::true_type(), Masks(), 0);
      } else if ((lanes(taps.plain) || taps.drops) && lanes(taps.dark) != 0xffff) {
        Masks some;
        if (taps.drops)
          left |= Bits(mask_dropping(job, taps, i + at, some)) << at;
        else
          for (int k = 0; k < S; ++k) some.column[k] = some.row[k] = some.read[k] = lanes(taps.plain);
        put_sum(std::false_type(), some, lanes(taps.dark));
      } else {
        store(out + at * C, outside, count - at);
      }
    }
    return left & first_bits(count);
  }
};
#endif

// Elements of an image of C channels that are read from the first tap of a row on, S taps `column` apart.
inline int64_t read_in_row(int64_t channels, int taps, int64_t column) {
  if (channels == 1) return has_pairs ? 4 : taps;
  const int64_t by_taps = (taps - 1) * column + 4;
  return has_pairs && taps == 2 && by_taps < 8 ? 8 : by_taps;
}

// Two taps are summed by the products of their weights, four axis by axis, as in sampling.hpp.
template <int S>
using PixelTaps = StripTaps<float, S, 2, S == 2, false, strip_rows, 0>;
// Placed in the arithmetic of R: coordinates and weights of float64 are rounded to float32 last.
template <class R, class T, int S>
using PlacedTaps = UsualTaps<R, S, 2, S == 2, false, strip_rows, 0, is_integer<T>, float>;

// The first tap of a pixel whose reading ends with the image.
template <int S, int C>
int last_first_tap(const SampleJob& job) {
  const int64_t column = job.input.axis[0], row = job.input.axis[1];
  const int64_t end = (row > 0 ? (job.size[1] - 1) * row : 0) + (job.size[0] - 1) * column + C;
  return int(end - (row > 0 ? (S - 1) * row : 0) - read_in_row(C, S, column));
}

// T: of the image's elements; C channels next to each other, or one in each of the image's planes; S taps on each axis.
template <class T, int S, int C>
struct PixelSampler {
  static constexpr bool flat = S == 2;

  template <int pixels>
  static PYSTN_HD QuadVector<pixels> value(const T* image, int column, int row, const PixelTaps<S>& taps, int i) {
    using Q = QuadOf<pixels>;
    using V = QuadVector<pixels>;
    const int* const first = taps.first + i;
    if constexpr (flat) {
      V sum = Q::spread(taps.product[0] + i) * Q::load(image, first);
      sum += Q::spread(taps.product[1] + i) * Q::load(image + column, first);
      sum += Q::spread(taps.product[2] + i) * Q::load(image + row, first);
      sum += Q::spread(taps.product[3] + i) * Q::load(image + row + column, first);
      return sum;
    } else {
      V sum{}, wx[S];
      for (int k = 0; k < S; ++k) wx[k] = Q::spread(taps.w[0][k] + i);
      for (int j = 0; j < S; ++j) {
        const T* const line = image + int64_t(j) * row;
        V inner = Q::load(line, first) * wx[0];
        for (int k = 1; k < S; ++k) inner += Q::load(line + int64_t(k) * column, first) * wx[k];
        sum += inner * Q::spread(taps.w[1][j] + i);
      }
      return sum;
    }
  }

#if PYSTN_QUADS == 4
  static PYSTN_HD QuadVector<4> value_of_pairs(const float* image, int row, const PixelTaps<2>& taps, int i) {
    using P = PairsOf<C>;
    using V = QuadVector<4>;
    V upper[2], lower[2];
    P::load(image, taps.first + i, upper);
    P::load(image + row, taps.first + i, lower);
    V sum = P::spread(taps.product[0] + i) * upper[0];
    sum += P::spread(taps.product[1] + i) * upper[1];
    sum += P::spread(taps.product[2] + i) * lower[0];
    sum += P::spread(taps.product[3] + i) * lower[1];
    return sum;
  }
#endif

  // Plain pixels from i to `end` of a run. Apart, or compilers load their constants again for each pixel.
  static PYSTN_APART void put_plain(const SampleJob& job, const T* image, const PixelTaps<S>& taps, int i, int end,
                                    T* out, Index step) {
    const int column = int(job.input.axis[0]), row = int(job.input.axis[1]);
    if constexpr (C == 1) {
      put_plane(image, row, taps, i, end, out, step);
    } else {
#if PYSTN_QUADS == 4
      if constexpr (flat && !is_small<T>)
        if (step == C && column == C)
          for (; i + 4 <= end; i += 4) PairsOf<C>::store(out + i * C, value_of_pairs(image, row, taps, i));
#endif
      if (step == C)
        for (; i + PYSTN_QUADS <= end; i += PYSTN_QUADS)
          QuadOf<PYSTN_QUADS>::template store<C>(out + i * C, value<PYSTN_QUADS>(image, column, row, taps, i));
      for (; i < end; ++i) QuadOf<1>::template store<C>(out + i * step, value<1>(image, column, row, taps, i));
    }
  }

  // One channel: rows of taps are collected as integers, element after element.
  static PYSTN_HD void put_plane(const T* image, int row, const PixelTaps<S>& taps, int begin, int end, T* out,
                                 Index step) {
    using Row = std::conditional_t<(S * sizeof(T) > 4), uint64_t, uint32_t>;
    constexpr int capacity = PixelTaps<S>::capacity, bits = 8 * int(sizeof(T));
    alignas(64) Row rows[S][capacity];
    alignas(64) T values[capacity];
    for (int j = 0; j < S; ++j)
      for (int i = begin; i < end; ++i) {
        rows[j][i] = 0;
        __builtin_memcpy(&rows[j][i], image + taps.first[i] + int64_t(j) * row, S * sizeof(T));
      }
    for (int i = begin; i < end; ++i) {
      const auto tap = [&](int j, int k) __attribute__((always_inline)) {
        return tap_of(unsigned(rows[j][i] >> bits * k) & ((1u << bits) - 1), T());
      };
      float sum = 0.0f;
      if constexpr (flat) {
        sum = taps.product[0][i] * tap(0, 0);
        for (int k = 1; k < S * S; ++k) sum += taps.product[k][i] * tap(k / S, k % S);
      } else {
        for (int j = 0; j < S; ++j) {
          float inner = 0.0f;
          for (int k = 0; k < S; ++k) inner += tap(j, k) * taps.w[0][k][i];
          sum += inner * taps.w[1][j][i];
        }
      }
      assign(values[i], sum);
    }
    for (int i = begin; i < end; ++i) out[i * step] = values[i];
  }
  static PYSTN_HD float tap_of(unsigned bits, Byte) { return float(int(bits)); }
  static PYSTN_HD float tap_of(unsigned bits, unsigned short) { return float(int(bits)); }
  static PYSTN_HD float tap_of(unsigned bits, short) { return float(int(short(bits))); }
  static PYSTN_HD float tap_of(unsigned bits, Half) { return half_to_float((unsigned short)bits); }
  static PYSTN_HD float tap_of(unsigned bits, Bfloat) { return float_of(bits << 16); }

  // One pixel some of whose taps are outside, where they read 0. As sampling.hpp does it, to the same bits.
  static void put_dropping(const SampleJob& job, const T* image, const PixelTaps<S>& taps, int i, T* out) {
    const int64_t column = job.input.axis[0], row = job.input.axis[1];
    const auto is_inside = [&](int a, int k) {
      return unsigned(taps.cell[a][i] + k) < unsigned(job.size[a]) && (S == 2 || !is_idle(taps.w[a][k][i], 0.0f, 0.0f));
    };
    image += taps.cell[0][i] * column + taps.cell[1][i] * row;
    float sum[C] = {};
    bool any = false;
    for (int j = 0; j < S; ++j) {
      if (!is_inside(1, j)) continue;
      float inner[C] = {};
      for (int k = 0; k < S; ++k) {
        if (!is_inside(0, k)) continue;
        const T* const tap = image + j * row + k * column;
        for (int c = 0; c < C; ++c) {
          const float value = number_of(tap[c]);
          if constexpr (flat)
            sum[c] = any ? sum[c] + taps.product[j * S + k][i] * value : taps.product[j * S + k][i] * value;
          else
            inner[c] += value * taps.w[0][k][i];
        }
        any = true;
      }
      for (int c = 0; !flat && c < C; ++c) sum[c] += inner[c] * taps.w[1][j][i];
    }
    for (int c = 0; c < C; ++c) assign(out[c], sum[c]);
  }

  // Asks for what strips to the right will read, twice as far from a strip as its end is from its beginning: in each
  // of its rows for some of it.
  static void prefetch(const SampleJob& job, const Span& strip, const T* image, const PixelTaps<S>& taps) {
    constexpr int64_t worthwhile = 1 << 18;  // bytes of images that nearer caches do not hold
    if (strip.count < strip_columns || job.size[0] * job.size[1] * C * int64_t(sizeof(T)) < worthwhile) return;
    constexpr int share = strip_columns / strip_rows;
    for (int r = 0; r < strip.rows; ++r) {
      const int at_row = r * taps.width, last = at_row + strip_columns - 1;
      if (!(taps.plain[at_row] & taps.plain[last])) continue;
      const int begin = at_row + int((strip.row + r) % strip_rows) * share;
      const int64_t ahead = 2 * (int64_t(taps.first[last]) - taps.first[at_row]);
      for (int i = begin; i < begin + share; i += 2) {
        const uintptr_t at = reinterpret_cast<uintptr_t>(image) + uintptr_t(taps.first[i] + ahead) * sizeof(T);
        __builtin_prefetch(reinterpret_cast<const char*>(at), 0, 2);
      }
    }
  }

  // Row r of a strip, `step` apart. Of what is neither plain nor dark, those of whom the bits are returned are left if
  // taps drop, and all if not.
  static PYSTN_HD Bits put_row(const SampleJob& job, int64_t channel, const Span& strip, int r, const T* image,
                               const PixelTaps<S>& taps, T* out, Index step) {
    const double* const fill = job.fill ? job.fill + channel : nullptr;
    const int first = r * taps.width;
#if PYSTN_QUADS == 4
    if constexpr (is_small<T>)
      if (step == C && job.input.axis[0] == C)
        return LanesOfPixels<T, S, C>::put(job, fill, image, taps, first, strip.count, out);
#endif
    T* const from = out - first * step;
    if (taps.all) {
      put_plain(job, image, taps, first, first + strip.count, from, step);
      return 0;
    }
    const Bits plain = taps.plain_bits(strip, r), dark = taps.dark_bits(strip, r) & ~plain;
    for_each_set_run(plain,
                     [&](int begin, int end) { put_plain(job, image, taps, first + begin, first + end, from, step); });
    for_each_set_run(dark, [&](int begin, int end) {
      for (int i = begin; i < end; ++i)
        for (int c = 0; c < C; ++c) assign(out[i * step + c], fill ? float(fill[c]) : 0.0f);
    });
    return first_bits(strip.count) & ~(plain | dark);
  }

  template <class R>
  static void put_strip(const SampleJob& job, int64_t n, const Span& strip, const T* image, PlacedTaps<R, T, S>& taps,
                        T* out, Index row, Index step) {
    taps.place(job, n, strip, 16);
    prefetch(job, strip, image, taps);
    for (int64_t c = 0; c < job.channels; c += C) {
      const T* const from = image + c * job.input.channel;
      T* const to = out + c * job.output.channel;
      for (int r = 0; r < strip.rows; ++r)
        for (Bits left = put_row(job, c, strip, r, from, taps, to + r * row, step); taps.drops && left;
             left &= left - 1) {
          const int i = lowest(left);
          put_dropping(job, from, taps, r * taps.width + i, to + r * row + i * step);
        }
    }
    if (!taps.all && !taps.drops) put_others(job, n, strip, taps, out, row, step);
  }

  template <class R>
  static void put_others(const SampleJob& job, int64_t n, const Span& strip, PlacedTaps<R, T, S>& taps, T* out,
                         Index row, Index step) {
    constexpr bool typed = std::is_same<T, R>::value;  // as sampling.hpp has it
    using E = std::conditional_t<typed, T, Any>;
    Flag other[strip_columns];
    for (int r = 0; r < strip.rows; ++r) {
      const Span others = taps.others(strip, other, r);
      if (others.count <= 0) continue;
      const int64_t begin = others.column - strip.column;
      sample_others<E, (flat || (S == 4 && typed) ? S : 0)>(job, n, others, other + begin, taps.run,
                                                            out + r * row + begin * step, step, job.output.channel);
    }
  }

  template <class R>
  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const T* const image = static_cast<const T*>(job.input.data) + n * job.input.batch;
    T* const output = static_cast<T*>(job.output.data) + n * job.output.batch;
    const Index step = column_stride(job, job.output.axis), row = row_stride(job, job.output.axis);
    const bool streams = job.streams && step == C && job.channels == C;
    PlacedTaps<R, T, S> taps(job, last_first_tap<S, C>(job));
    Stream<T, 1, strip_rows, strip_columns * C> stream(row, 0);
    for_each_strip(job, chunk % chunks_per_image(job), [&](const Span& strip) {
      T* const there = output + offset_of(job, job.output.axis, strip);
      T* const here = streams ? stream.begin(there) : there;
      put_strip(job, n, strip, image, taps, here, streams ? stream.row : row, step);
      if (streams) stream.end(there, row, 0, 1, strip.rows, strip.count * C, is_first(job, strip), is_last(job, strip));
    });
    if (streams) end_streams();
  }
};

template <class Sampler>
SampleChunk in_arithmetic(const SampleJob& job) {
  return job.single ? Sampler::template forward<float> : Sampler::template forward<double>;
}

template <class T, int C>
SampleChunk sampled_pixels(const SampleJob& job) {
  const int taps = job.kernel[0].taps;
  if (taps == 2) return in_arithmetic<PixelSampler<T, 2, C>>(job);
  if (taps == 4) return in_arithmetic<PixelSampler<T, 4, C>>(job);
  if constexpr (!is_small<T>) {
    if (taps == 3) return in_arithmetic<PixelSampler<T, 3, C>>(job);
    if (taps == 6) return in_arithmetic<PixelSampler<T, 6, C>>(job);
    if (taps == 8) return in_arithmetic<PixelSampler<T, 8, C>>(job);
  }
  return nullptr;
}

template <class T>
SampleChunk pixels_of(const SampleJob& job) {
  if (job.channels == 1 || job.input.channel != 1) {
    if constexpr (is_small<T>)
      if (job.input.axis[0] == 1) return sampled_pixels<T, 1>(job);
    return nullptr;
  }
  if (job.output.channel != 1 || job.input.axis[0] < job.channels) return nullptr;
  switch (job.channels) {
    case 2:
      return sampled_pixels<T, 2>(job);
    case 3:
      return sampled_pixels<T, 3>(job);
    case 4:
      return sampled_pixels<T, 4>(job);
    default:
      return nullptr;
  }
}

// The body for a forward job on such images, or null if the general one has to do it.
inline SampleChunk pixels(const SampleJob& job) {
  if (job.ndim != 2 || job.components != 1 || job.output.type != job.input.type) return nullptr;
  if (job.mask.data || job.projected || job.output_batch != job.batch) return nullptr;
  const int taps = job.kernel[0].taps;
  if (job.kernel[1].taps != taps) return nullptr;
  for (int a = 0; a < 2; ++a)
    if (taps == 2 && Mode(job.kernel[a].mode) != Mode::linear) return nullptr;
  int64_t reach = 4;
  for (int a = 0; a < 2; ++a) {
    const int64_t stride = job.input.axis[a] < 0 ? -job.input.axis[a] : job.input.axis[a];
    if (job.full[a] >= int64_t(1) << 29) return nullptr;
    reach += (job.size[a] + 256) * stride;  // first taps are at most 128 pixels outside
  }
  if (reach >= int64_t(1) << 31 || job.size[0] < 2 || job.size[1] < 2) return nullptr;
  switch (job.input.type) {
    case Element::f32:
      return pixels_of<float>(job);
    case Element::f16:
      return pixels_of<Half>(job);
    case Element::bf16:
      return pixels_of<Bfloat>(job);
    case Element::u8:
      return pixels_of<Byte>(job);
    case Element::i16:
      return pixels_of<short>(job);
    case Element::u16:
      return pixels_of<unsigned short>(job);
    default:
      return nullptr;
  }
}

}  // namespace pystn::PYSTN_LEVEL
#endif
