// Pixels of small types with a lane each, and a vector for each of their channels (AVX-512). For pixels.hpp.
#pragma once

#include "quads.hpp"
#include "usual_taps.hpp"

#if PYSTN_QUADS == 4
namespace pystn::PYSTN_LEVEL {

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
    for (int k = 0; k < 4; ++k) c[k] = k < C ? integers<Byte>(sum[k < C ? k : 0]) : zero;
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

}  // namespace pystn::PYSTN_LEVEL
#endif
