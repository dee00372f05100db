// Lanes for images of two to four channels, float32, and linear kernels: two neighbours along x are one vector, which
// holds both taps of a row; and some pixels of the output are one vector, four lanes each. channels.hpp has the loops,
// which give the bits of its other lanes.
#pragma once

#include "run.hpp"

#if defined(__AVX2__)
#define PYSTN_FEW_CHANNELS 1

#include <immintrin.h>

namespace pystn::PYSTN_LEVEL {

#if defined(__AVX512VL__) && defined(__AVX512DQ__)
#define PYSTN_FEW_MASKS 1
#endif

// Two neighbours along x of an image without gaps, in the first lanes of a vector. Lanes beyond them are neither read
// nor written.
struct NeighbourLanes {
  typedef float V __attribute__((vector_size(32)));

  static bool fit(int64_t channels, Index column) { return channels >= 2 && channels <= 4 && column == channels; }

#if defined(PYSTN_FEW_MASKS)
  explicit NeighbourLanes(int64_t channels)
      : channel(channel_of_lane(channels)),
        one(__mmask8((1 << channels) - 1)),
        other(__mmask8(one << channels)),
        both(one | other) {}

  PYSTN_HD V load(const float* from) const { return V(_mm256_maskz_loadu_ps(both, from)); }
  PYSTN_HD void store(float* to, const V& v) const { _mm256_mask_storeu_ps(to, both, __m256(v)); }
  // A pixel, twice.
  PYSTN_HD V twice(const float* from) const {
    return V(_mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_maskz_loadu_ps(one, from)), channel));
  }
  // Of the one and of the other.
  PYSTN_HD V weights(float w, float v) const {
    return V(_mm256_mask_mov_ps(_mm256_set1_ps(w), other, _mm256_set1_ps(v)));
  }

 private:
  const __m256i channel;
  const __mmask8 one, other, both;
#else
  explicit NeighbourLanes(int64_t channels)
      : channel(channel_of_lane(channels)),
        one(_mm_cmpgt_epi32(_mm_set1_epi32(int(channels)), _mm_setr_epi32(0, 1, 2, 3))),
        other(_mm256_castsi256_ps(_mm256_cmpgt_epi32(lane(), _mm256_set1_epi32(int(channels) - 1)))),
        channels(int(channels)) {}

  PYSTN_HD V load(const float* from) const {
    if (channels == 4) return V(_mm256_loadu_ps(from));
    const __m256 low = _mm256_zextps128_ps256(_mm_loadu_ps(from));
    if (channels == 2) return V(low);
    const __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 4));
    return V(_mm256_insertf128_ps(low, _mm_castsi128_ps(high), 1));
  }
  PYSTN_HD void store(float* to, const V& v) const {
    if (channels == 4) return _mm256_storeu_ps(to, __m256(v));
    _mm_storeu_ps(to, _mm256_castps256_ps128(__m256(v)));
    const __m128i high = _mm_castps_si128(_mm256_extractf128_ps(__m256(v), 1));
    if (channels == 3) _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 4), high);
  }
  PYSTN_HD V twice(const float* from) const {
    return V(_mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_maskload_ps(from, one)), channel));
  }
  PYSTN_HD V weights(float w, float v) const {
    return V(_mm256_blendv_ps(_mm256_set1_ps(w), _mm256_set1_ps(v), other));
  }

 private:
  const __m256i channel;
  const __m128i one;
  const __m256 other;
  const int channels;
#endif

  static __m256i lane() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static __m256i channel_of_lane(int64_t channels) {
    const __m256i count = _mm256_set1_epi32(int(channels)), last = _mm256_set1_epi32(int(channels) - 1);
    return _mm256_sub_epi32(lane(), _mm256_and_si256(count, _mm256_cmpgt_epi32(lane(), last)));
  }
};

// Some pixels of the output, four lanes each: its channels, and zeros.
struct PixelLanes {
#if defined(PYSTN_FEW_MASKS)
  static constexpr int pixels = 4;
#else
  static constexpr int pixels = 2;
#endif
  typedef float V __attribute__((vector_size(16 * pixels)));

#if defined(PYSTN_FEW_MASKS)
  // The taps of a row are within eight elements, and cotangents have no gaps.
  static bool fit(int64_t channels, Index column, Index cotangents) {
    return channels >= 2 && channels <= 4 && cotangents == channels && column >= 0 && column + channels <= 8;
  }

  PixelLanes(int64_t channels, Index column)
      : both(__mmask8((1 << (column + channels)) - 1)),
        some(__mmask16(0x1111 * ((1 << channels) - 1))),
        packed(__mmask16((1 << pixels * channels) - 1)) {
    const __m512i channel = _mm512_set4_epi32(3, 2, 1, 0);
    place = _mm512_add_epi32(channel, _mm512_mullo_epi32(pixel(), _mm512_set1_epi32(int(channels))));
    first = _mm512_add_epi32(channel, _mm512_slli_epi32(pixel(), 3));
    second = _mm512_add_epi32(first, _mm512_set1_epi32(int(column)));
  }

  // Two neighbours along x for each pixel, from its own offset on.
  PYSTN_HD void load(const float* from, const Index* offset, V (&tap)[2]) const {
    const auto two = [&](int p) __attribute__((always_inline)) {
      return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_maskz_loadu_ps(both, from + offset[p])),
                                _mm256_maskz_loadu_ps(both, from + offset[p + 1]), 1);
    };
    const __m512 low = two(0), high = two(2);
    tap[0] = V(_mm512_maskz_permutex2var_ps(some, low, first, high));
    tap[1] = V(_mm512_maskz_permutex2var_ps(some, low, second, high));
  }
  PYSTN_HD V cotangents(const float* from, Index) const {
    return V(_mm512_maskz_permutexvar_ps(some, place, _mm512_maskz_loadu_ps(packed, from)));
  }
  // A pixel's number in all its lanes.
  static PYSTN_HD V spread(const float* of) {
    return V(_mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(of)), pixel()));
  }

 private:
  static PYSTN_HD __m512i pixel() { return _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3); }
  __mmask8 both;
  __mmask16 some, packed;
  __m512i place, first, second;
#else
  static bool fit(int64_t channels, Index, Index) { return channels >= 2 && channels <= 4; }

  PixelLanes(int64_t channels, Index column)
      : column(column), some(_mm_cmpgt_epi32(_mm_set1_epi32(int(channels)), _mm_setr_epi32(0, 1, 2, 3))) {}

  PYSTN_HD void load(const float* from, const Index* offset, V (&tap)[2]) const {
    tap[0] = two(from + offset[0], from + offset[1]);
    tap[1] = two(from + offset[0] + column, from + offset[1] + column);
  }
  PYSTN_HD V cotangents(const float* from, Index apart) const { return two(from, from + apart); }
  static PYSTN_HD V spread(const float* of) {
    double both;
    __builtin_memcpy(&both, of, sizeof both);
    return V(_mm256_permutevar_ps(_mm256_castpd_ps(_mm256_set1_pd(both)), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)));
  }

 private:
  PYSTN_HD V two(const float* a, const float* b) const {
    return V(_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_maskload_ps(a, some)), _mm_maskload_ps(b, some), 1));
  }
  const Index column;
  const __m128i some;
#endif
};

}  // namespace pystn::PYSTN_LEVEL
#endif
