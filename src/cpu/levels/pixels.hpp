// The forward pass of images whose pixels are few numbers next to each other: float32 or uint8, two to
// four channels, or uint8 with one; linear or with four taps.
//
// A pixel is four lanes of a vector, its channels and what follows them in memory; a vector has one,
// two or four output pixels. With one channel lanes are output pixels, and so they are for bytes on
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
  static PYSTN_HD V spread(const float* weight) { return weight[0] - V{}; }
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
    for (int l = 0; l < C; ++l) Elements<Any>::store<float>(to, Type::u8, l, v[l]);
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
// Bytes of 16 pixels, one a lane: of C channels next to each other, S taps on each axis, which are neighbours.
template <int S, int C>
struct BytePlanes {
  // The taps of a row are so many numbers of four bytes, in each lane.
  static constexpr int words = (S * C + 3) / 4;

  static PYSTN_HD void gather(const Byte* from, __m512i first, __mmask16 some, __m512i (&word)[words]) {
    const __m512i zero = _mm512_setzero_si512();
    const __mmask8 low = __mmask8(some), high = __mmask8(some >> 8);
    for (int w = 0; w + 1 < words; w += 2) {
      const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      const __m256i second = _mm512_extracti64x4_epi64(first, 1);
      const __m512i a = _mm512_mask_i32gather_epi64(zero, low, _mm512_castsi512_si256(first), from + 4 * w, 1);
      const __m512i b = _mm512_mask_i32gather_epi64(zero, high, second, from + 4 * w, 1);
      word[w] = _mm512_permutex2var_epi32(a, even, b);
      word[w + 1] = _mm512_permutex2var_epi32(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
    }
    if (words % 2) word[words - 1] = _mm512_mask_i32gather_epi32(zero, some, first, from + 4 * (words - 1), 1);
  }

  // Byte k of each lane's four.
  static PYSTN_HD __m512 byte(__m512i word, int k) {
    const __m512i of_lane = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    const __m512i others = _mm512_set1_epi32(int(0x80808000));
    if (k == 0) return _mm512_cvtepi32_ps(_mm512_and_si512(word, _mm512_set1_epi32(255)));
    if (k == 3) return _mm512_cvtepi32_ps(_mm512_srli_epi32(word, 24));
    const __m512i at = _mm512_or_si512(_mm512_add_epi32(of_lane, _mm512_set1_epi32(k)), others);
    return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(word, at));
  }

  // Stores `count` pixels, rounded.
  static PYSTN_HD void store(Byte* to, const __m512 (&sum)[C], int count) {
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

  // Which lanes read what: columns k and rows j of their taps count, row j is read.
  struct Masks {
    __mmask16 column[S], row[S], read[S];
  };

  template <bool whole, class Taps>
  static PYSTN_HD void sum_taps(const Byte* image, int row, const Taps& taps, int i, const Masks& some,
                                __m512 (&sum)[C]) {
    const auto weight = [&](int a, int k, __mmask16 of) {
      return whole ? _mm512_loadu_ps(taps.w[a][k] + i) : _mm512_maskz_loadu_ps(of, taps.w[a][k] + i);
    };
    const __m512i first = _mm512_loadu_si512(taps.first + i);
    for (int j = 0; j < S; ++j) {
      __m512i word[words];
      __m512 inner[C];
      gather(image + int64_t(j) * row, first, whole ? __mmask16(0xffff) : some.read[j], word);
      for (int k = 0; k < S; ++k)
        for (int c = 0; c < C; ++c) {
          const int at = k * C + c;
          const __m512 term = _mm512_mul_ps(byte(word[at / 4], at % 4), weight(0, k, some.column[k]));
          inner[c] = k ? _mm512_add_ps(inner[c], term) : term;
        }
      for (int c = 0; c < C; ++c) {
        const __m512 term = _mm512_mul_ps(inner[c], weight(1, j, some.row[j]));
        sum[c] = j ? _mm512_add_ps(sum[c], term) : term;
      }
    }
  }

  // Where taps outside read 0. Bytes beside a row may be read, for nothing, but not those beside the image: returns
  // the pixels that would.
  template <class Taps>
  static PYSTN_HD __mmask16 mask_dropping(const SampleJob& job, const Taps& taps, int i, Masks& some) {
    const int row = int(job.input.axis[1]), rows = int(job.size[1] - 1) * row;
    const __m512i low = _mm512_set1_epi32(rows < 0 ? rows : 0);
    const __m512i high = _mm512_set1_epi32((rows < 0 ? 0 : rows) + int(job.size[0]) * C - 4 * words);
    const __m512i x = _mm512_loadu_si512(taps.cell[0] + i), y = _mm512_loadu_si512(taps.cell[1] + i);
    const __m512i first = _mm512_loadu_si512(taps.first + i);
    const auto inside = [](__m512i cell, int k, int64_t size) {
      return _mm512_cmplt_epu32_mask(_mm512_add_epi32(cell, _mm512_set1_epi32(k)), _mm512_set1_epi32(int(size)));
    };
    __mmask16 any = 0, beside = 0;
    for (int k = 0; k < S; ++k) any |= some.column[k] = inside(x, k, job.size[0]);
    for (int j = 0; j < S; ++j) {
      const __m512i at = _mm512_add_epi32(first, _mm512_set1_epi32(j * row));
      const __mmask16 allowed = _mm512_cmple_epi32_mask(low, at) & _mm512_cmple_epi32_mask(at, high);
      some.row[j] = inside(y, j, job.size[1]);
      some.read[j] = some.row[j] & any & allowed;
      beside |= some.row[j] & any & ~allowed;
    }
    return beside;
  }

  // Pixels of one row, of `taps` from i on: those that are plain, and the others if their taps drop. Those that are
  // left have their bits returned. Apart, or compilers load their constants again for each block.
  template <class Taps>
  static PYSTN_APART Bits put(const SampleJob& job, const Byte* image, const Taps& taps, int i, int count, Byte* out) {
    const int row = int(job.input.axis[1]);
    Bits left = 0;
    for (int at = 0; at < count; at += 16) {
      const auto put_sum = [&](auto whole, const Masks& some) __attribute__((always_inline)) {
        __m512 sum[C];
        sum_taps<whole.value>(image, row, taps, i + at, some, sum);
        store(out + at * C, sum, count - at);
      };
      const auto lanes = [&](const Flag* flags) __attribute__((always_inline)) {
        return _mm512_test_epi32_mask(_mm512_loadu_si512(flags + i + at), _mm512_set1_epi32(1));
      };
      if (taps.all || lanes(taps.plain) == 0xffff) {
        put_sum(std::true_type(), Masks());
      } else if ((lanes(taps.plain) || taps.drops) && lanes(taps.dark) != 0xffff) {
        Masks some;
        if (taps.drops)
          left |= Bits(mask_dropping(job, taps, i + at, some)) << at;
        else
          for (int k = 0; k < S; ++k) some.column[k] = some.row[k] = some.read[k] = lanes(taps.plain);
        put_sum(std::false_type(), some);
      } else {
        store(out + at * C, {}, count - at);
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

// Bytes are summed axis by axis, numbers of two taps by the products of their weights, as in sampling.hpp.
template <class T, int S>
using PixelTaps = UsualTaps<T, float, S, 2, S == 2 && sizeof(T) == 4, false, strip_rows>;

// The first tap of a pixel whose reading ends with the image.
template <int S>
int last_first_tap(const SampleJob& job) {
  const int64_t column = job.input.axis[0], row = job.input.axis[1];
  const int64_t end = (row > 0 ? (job.size[1] - 1) * row : 0) + (job.size[0] - 1) * column + job.channels;
  return int(end - (row > 0 ? (S - 1) * row : 0) - read_in_row(job.channels, S, column));
}

// T: of the image's elements; C channels; S taps on each axis.
template <class T, int S, int C>
struct PixelSampler {
  static constexpr bool bytes = PixelTaps<T, S>::bytes, flat = S == 2 && !bytes;

  template <int pixels>
  static PYSTN_HD QuadVector<pixels> value(const T* image, int column, int row, const PixelTaps<T, S>& taps, int i) {
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
  static PYSTN_HD QuadVector<4> value_of_pairs(const float* image, int row, const PixelTaps<float, 2>& taps, int i) {
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
  static PYSTN_APART void put_plain(const SampleJob& job, const T* image, const PixelTaps<T, S>& taps, int i, int end,
                                    T* out, Index step) {
    const int column = int(job.input.axis[0]), row = int(job.input.axis[1]);
    if constexpr (C == 1) {
      put_bytes(image, row, taps, i, end, out, step);
    } else {
#if PYSTN_QUADS == 4
      if constexpr (flat)
        if (step == C && column == C)
          for (; i + 4 <= end; i += 4) PairsOf<C>::store(out + i * C, value_of_pairs(image, row, taps, i));
#endif
      if (step == C)
        for (; i + PYSTN_QUADS <= end; i += PYSTN_QUADS)
          QuadOf<PYSTN_QUADS>::template store<C>(out + i * C, value<PYSTN_QUADS>(image, column, row, taps, i));
      for (; i < end; ++i) QuadOf<1>::template store<C>(out + i * step, value<1>(image, column, row, taps, i));
    }
  }

  // One channel: rows of taps are collected as integers, byte after byte.
  static PYSTN_HD void put_bytes(const T* image, int row, const PixelTaps<T, S>& taps, int begin, int end, T* out,
                                 Index step) {
    using Bytes = unsigned int;
    constexpr int capacity = PixelTaps<T, S>::capacity;
    alignas(64) Bytes rows[S][capacity];
    alignas(64) Byte values[capacity];
    for (int j = 0; j < S; ++j)
      for (int i = begin; i < end; ++i) {
        rows[j][i] = 0;
        __builtin_memcpy(&rows[j][i], image + taps.first[i] + int64_t(j) * row, S);
      }
    for (int i = begin; i < end; ++i) {
      const auto tap = [&](int j, int k) { return float(int(rows[j][i] >> 8 * k & 255)); };
      float sum = 0.0f;
      for (int j = 0; j < S; ++j) {
        float inner = 0.0f;
        for (int k = 0; k < S; ++k) inner += tap(j, k) * taps.w[0][k][i];
        sum += inner * taps.w[1][j][i];
      }
      values[i] = Byte(int(rounded_between(0.0f, sum, 255.0f)));
    }
    for (int i = begin; i < end; ++i) out[i * step] = values[i];
  }

  // One pixel some of whose taps are outside, where they read 0. As sampling.hpp does it, to the same bits.
  static void put_dropping(const SampleJob& job, const T* image, const PixelTaps<T, S>& taps, int i, T* out) {
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
          const float value = float(tap[c]);
          if constexpr (flat)
            sum[c] = any ? sum[c] + taps.product[j * S + k][i] * value : taps.product[j * S + k][i] * value;
          else
            inner[c] += value * taps.w[0][k][i];
        }
        any = true;
      }
      for (int c = 0; !flat && c < C; ++c) sum[c] += inner[c] * taps.w[1][j][i];
    }
    for (int c = 0; c < C; ++c) out[c] = bytes ? T(rounded_between(0.0f, sum[c], 255.0f)) : T(sum[c]);
  }

  // Asks for what strips to the right will read, twice as far from a strip as its end is from its beginning: in each
  // of its rows for some of it.
  static void prefetch(const SampleJob& job, const Span& strip, const T* image, const PixelTaps<T, S>& taps) {
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
  static PYSTN_HD Bits put_row(const SampleJob& job, const Span& strip, int r, const T* image,
                               const PixelTaps<T, S>& taps, T* out, Index step) {
    const int first = r * taps.width;
#if PYSTN_QUADS == 4
    if constexpr (bytes)
      if (step == C && job.input.axis[0] == C) return BytePlanes<S, C>::put(job, image, taps, first, strip.count, out);
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
        for (int c = 0; c < C; ++c) out[i * step + c] = T(0);
    });
    return first_bits(strip.count) & ~(plain | dark);
  }

  static void put_strip(const SampleJob& job, int64_t n, const Span& strip, const T* image, PixelTaps<T, S>& taps,
                        T* out, Index row, Index step) {
    Flag other[strip_columns];
    taps.place(job, n, strip, 16);
    prefetch(job, strip, image, taps);
    for (int r = 0; r < strip.rows; ++r) {
      Bits left = put_row(job, strip, r, image, taps, out + r * row, step);
      if (taps.all) continue;
      if (taps.drops) {
        for (; left; left &= left - 1) {
          const int i = lowest(left);
          put_dropping(job, image, taps, r * taps.width + i, out + r * row + i * step);
        }
        continue;
      }
      const Span others = taps.others(strip, other, r);
      if (others.count <= 0) continue;
      const int64_t begin = others.column - strip.column;
      T* const to = out + r * row + begin * step;
      bytes ? sample_others<Any, 0>(job, n, others, other + begin, taps.run, to, step, 1)
            : sample_others<float, S>(job, n, others, other + begin, taps.run, to, step, 1);
    }
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const T* const image = static_cast<const T*>(job.input.data) + n * job.input.batch;
    T* const output = static_cast<T*>(job.output.data) + n * job.output.batch;
    const Index step = column_stride(job, job.output.axis), row = row_stride(job, job.output.axis);
    const bool streams = job.streams && step == C;
    PixelTaps<T, S> taps(job, last_first_tap<S>(job));
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

template <class T, int C>
SampleChunk sampled_pixels(const SampleJob& job) {
  return job.kernel[0].taps == 2 ? PixelSampler<T, 2, C>::forward : PixelSampler<T, 4, C>::forward;
}

// The body for a forward job on small pixels, or null if the general one has to do it.
inline SampleChunk pixels(const SampleJob& job) {
  const bool bytes = job.input.type == Element::u8;
  if (job.ndim != 2 || !job.single || job.components != 1 || job.output.type != job.input.type) return nullptr;
  if (!bytes && job.input.type != Element::f32) return nullptr;
  if (job.mask.data || job.projected || job.output_batch != job.batch) return nullptr;
  const int taps = job.kernel[0].taps;
  if (job.kernel[1].taps != taps || (taps != 2 && taps != 4)) return nullptr;
  for (int a = 0; a < 2; ++a)
    if (taps == 2 && Mode(job.kernel[a].mode) != Mode::linear) return nullptr;
  int64_t reach = 4;
  for (int a = 0; a < 2; ++a) {
    const int64_t stride = job.input.axis[a] < 0 ? -job.input.axis[a] : job.input.axis[a];
    if (job.full[a] >= int64_t(1) << 29) return nullptr;
    reach += (job.size[a] + 256) * stride;  // first taps are at most 128 pixels outside
  }
  if (reach >= int64_t(1) << 31 || job.size[0] < 2 || job.size[1] < 2) return nullptr;
  if (job.channels == 1) return bytes && job.input.axis[0] == 1 ? sampled_pixels<Byte, 1>(job) : nullptr;
  if (job.input.channel != 1 || job.output.channel != 1 || job.input.axis[0] < job.channels) return nullptr;
  switch (job.channels) {
    case 2:
      return bytes ? sampled_pixels<Byte, 2>(job) : sampled_pixels<float, 2>(job);
    case 3:
      return bytes ? sampled_pixels<Byte, 3>(job) : sampled_pixels<float, 3>(job);
    case 4:
      return bytes ? sampled_pixels<Byte, 4>(job) : sampled_pixels<float, 4>(job);
    default:
      return nullptr;
  }
}

}  // namespace pystn::PYSTN_LEVEL
#endif
