// Eight pixels of two to four channels next to each other, of two taps on each axis: their sums, and these written. For
// planes.hpp.
//
// Of bytes a lane is a pixel, and what its rows of taps are is one load each; what is wider is four lanes a pixel, two
// of them in a vector, as in pixels.hpp. The sums are made in one order.
#pragma once

#include "plane_taps.hpp"

#if defined(PYSTN_EIGHT_LANES)

namespace pystn::PYSTN_LEVEL {

// The taps of pixels some of which are outside, each at an offset in the image.
struct OddTaps : OddCells {
  alignas(32) int offset[4][eight];

  template <class Plane>
  PYSTN_HD OddTaps(const Plane& plane, EightInts at_x, EightInts at_y) : OddCells(plane, at_x, at_y) {
    for (int k = 0; k < 4; ++k) {
      const EightInts x = plane.around(from_origin(at_x, -(k % 2)), plane.width);
      const EightInts y = plane.around(from_origin(at_y, -(k / 2)), plane.height);
      number_to(offset[k], inside(k) & offset_of(plane, x, y, plane.column));
    }
  }
};

// Elements T of pixels, C of them each. On AVX-512 these are in small_lanes.hpp and pixels.hpp.
template <class T, int C>
struct PackedPixels;

#if !defined(__AVX512F__)
template <class T, int C>
struct PackedPixels {
  static constexpr bool bytes = std::is_same<T, Byte>::value;
  // Elements that are read of a row from a first tap on.
  static constexpr int in_row = bytes ? (C == 2 ? 4 : 8) : C + 4;

  using Two = QuadOf<2>;
  using TwoPixels = QuadVector<2>;

  // All taps of which are in the image, and what is read beyond them.
  static PYSTN_HD void put(const T* from, int row, const int* first, const PairWeights& weights, T* out) {
    if constexpr (bytes) {
      Eight sum[C], tap[2][C];
      for (int j = 0; j < 2; ++j) {
        read_row(from + j * int64_t(row), first, tap);
        for (int c = 0; c < C; ++c) {
          sum[c] = j ? sum[c] + weights.of[2] * tap[0][c] : weights.of[0] * tap[0][c];
          sum[c] += weights.of[2 * j + 1] * tap[1][c];
        }
      }
      store(out, sum);
    } else if constexpr (C == 4 && std::is_same<T, float>::value) {
      put_rows(from, row, first, weights, out);
    } else {
      alignas(32) float weight[4][eight];
      for (int k = 0; k < 4; ++k) store_eight(weight[k], weights.of[k]);
      for (int i = 0; i < eight; i += 2) {
        TwoPixels sum = Two::spread(weight[0] + i) * Two::load(from, first + i);
        sum += Two::spread(weight[1] + i) * Two::load(from + C, first + i);
        sum += Two::spread(weight[2] + i) * Two::load(from + row, first + i);
        sum += Two::spread(weight[3] + i) * Two::load(from + row + C, first + i);
        Two::template store<C>(out + i * C, sum);
      }
    }
  }

  // Those that are outside read 0. `share` of `fill` is added where it is not 0. What is read begins at `last_quad` at
  // most, or one by one.
  static PYSTN_HD void put_odd(const T* from, const OddTaps& taps, const PairWeights& weights, Eight share,
                               const float* fill, int last_quad, T* out) {
    EightInts beyond{};
    for (int k = 0; k < 4; ++k) beyond |= last_quad - number_at<EightInts>(taps.offset[k]);
    if (signs_of(beyond)) return put_apart(from, taps, weights, share, fill, out);
    alignas(32) float weight[4][eight], inside[4][eight], outside[eight];
    for (int k = 0; k < 4; ++k) {
      store_eight(weight[k], weights.of[k]);
      store_eight(inside[k], Eight(taps.inside(k)));
    }
    store_eight(outside, share);
    const __m128 one = _mm_loadu_ps(fill);
    const TwoPixels filling = TwoPixels(_mm256_set_m128(one, one));
    for (int i = 0; i < eight; i += 2) {
      const auto term = [&](int k) __attribute__((always_inline)) {
        __m256 tap = __m256(Two::load(from, taps.offset[k] + i));
        if constexpr (!bytes) tap = _mm256_and_ps(tap, __m256(Two::spread(inside[k] + i)));
        return Two::spread(weight[k] + i) * TwoPixels(tap);
      };
      TwoPixels sum = term(0);
      for (int k = 1; k < 4; ++k) sum += term(k);
      const TwoPixels part = Two::spread(outside + i);
      Two::template store<C>(out + i * C, part == TwoPixels{} ? sum : sum + part * filling);
    }
  }

 private:
  // Four channels of float32: both taps of a row are one load, and products of two pixels are brought side by side.
  static PYSTN_HD void put_rows(const float* from, int row, const int* first, const PairWeights& weights, float* out) {
    alignas(32) float weight[2][2 * eight];  // of each pixel the two of a row
    for (int j = 0; j < 2; ++j) store_pairs(weight[j], weights.of[2 * j], weights.of[2 * j + 1]);
    for (int i = 0; i < eight; i += 2) {
      __m256 sum{};
      for (int j = 0; j < 2; ++j) {
        const auto products = [&](int l) __attribute__((always_inline)) {
          const __m256 taps = _mm256_loadu_ps(from + j * int64_t(row) + first[l]);
          return _mm256_mul_ps(__m256(Two::spread(weight[j] + 2 * l)), taps);
        };
        const __m256 a = products(i), b = products(i + 1);
        const __m256 near = _mm256_permute2f128_ps(a, b, 0x20), far = _mm256_permute2f128_ps(a, b, 0x31);
        sum = _mm256_add_ps(j ? _mm256_add_ps(sum, near) : near, far);
      }
      _mm256_storeu_ps(out + 4 * i, sum);
    }
  }

  static PYSTN_APART void put_apart(const T* from, const OddTaps& taps, const PairWeights& weights, const Eight& share,
                                    const float* fill, T* out) {
    for (int l = 0; l < eight; ++l)
      for (int c = 0; c < C; ++c) {
        const auto term = [&](int k) {
          return taps.inside(k)[l] ? weights.of[k][l] * number_of(from[taps.offset[k][l] + c]) : 0.0f;
        };
        float sum = term(0);
        for (int k = 1; k < 4; ++k) sum += term(k);
        assign(out[l * C + c], share[l] == 0.0f ? sum : sum + share[l] * fill[c]);
      }
  }

  // Two taps next to each other of each pixel, by channels.
  static PYSTN_HD void read_row(const Byte* from, const int* first, Eight (&tap)[2][C]) {
    if constexpr (C == 2) {
      const auto pair = [&](int l) __attribute__((always_inline)) { return number_at<int>(from + first[l]); };
      const __m256i pairs = _mm256_setr_epi32(pair(0), pair(1), pair(2), pair(3), pair(4), pair(5), pair(6), pair(7));
      for (int at = 0; at < 4; ++at) tap[at / C][at % C] = byte_of(pairs, at);
    } else {
      // Pairs of pixels 0, 1 and 4, 5; 2, 3 and 6, 7; then the first and the last four bytes of all.
      const auto pair = [&](int l) __attribute__((always_inline)) {
        const __m128i one = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + first[l]));
        return _mm_loadh_pi(_mm_castsi128_ps(one), reinterpret_cast<const __m64*>(from + first[l + 1]));
      };
      const __m256 a = _mm256_insertf128_ps(_mm256_castps128_ps256(pair(0)), pair(4), 1);
      const __m256 b = _mm256_insertf128_ps(_mm256_castps128_ps256(pair(2)), pair(6), 1);
      const __m256i word[2] = {_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)),
                               _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd))};
      for (int at = 0; at < 2 * C; ++at) tap[at / C][at % C] = byte_of(word[at / 4], at % 4);
    }
  }
  // Byte k of each lane, a number.
  static PYSTN_HD Eight byte_of(__m256i word, int k) {
    const __m256i of_lane = _mm256_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12);
    if (k == 0) return Eight(_mm256_cvtepi32_ps(_mm256_and_si256(word, _mm256_set1_epi32(255))));
    if (k == 3) return Eight(_mm256_cvtepi32_ps(_mm256_srli_epi32(word, 24)));
    const __m256i at =
        _mm256_or_si256(_mm256_add_epi32(of_lane, _mm256_set1_epi32(k)), _mm256_set1_epi32(int(0x80808000)));
    return Eight(_mm256_cvtepi32_ps(_mm256_shuffle_epi8(word, at)));
  }

  static PYSTN_HD void store(Byte* to, const Eight (&sum)[C]) {
    const auto channel = [&](int c) __attribute__((always_inline)) {
      return c < C ? integers<Byte>(__m256(sum[c < C ? c : 0])) : _mm256_setzero_si256();
    };
    // Four pixels of each channel in turn, then the channels of each pixel.
    const __m256i planes =
        _mm256_packus_epi16(_mm256_packs_epi32(channel(0), channel(1)), _mm256_packs_epi32(channel(2), channel(3)));
    const __m128i turned = C == 2   ? _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, -1, -1, -1, -1, -1, -1, -1, -1)
                           : C == 3 ? _mm_setr_epi8(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, -1, -1, -1, -1)
                                    : _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i pixels = _mm256_shuffle_epi8(planes, _mm256_broadcastsi128_si256(turned));
    const __m128i low = _mm256_castsi256_si128(pixels), high = _mm256_extracti128_si256(pixels, 1);
    if constexpr (C == 4) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), pixels);
    } else if constexpr (C == 3) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), low);
      const int last = _mm_extract_epi32(high, 2);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 12), high);
      __builtin_memcpy(to + 20, &last, sizeof last);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi64(low, high));
    }
  }
};

#endif
}  // namespace pystn::PYSTN_LEVEL
#endif
