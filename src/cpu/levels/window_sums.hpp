// The same as window_matrix.hpp for one or two channels, lane after lane. Included by tiles.hpp alone.
#pragma once

#include "window_matrix.hpp"

namespace pystn::PYSTN_LEVEL {

// A window of sums, and where the terms of a tile go in it. The two weights of a lane along x are kept
// as a row of the window, zeros beside them: a term is then that row times a number. Upper and lower
// taps have sums of their own: lanes below each other, which come one after the other, would wait for
// each other's additions to the row they share.
struct WindowSums {
  // Taps outside the image weigh nothing, wherever they are put: a row before the window, and one after it.
  static constexpr int rows = window + 2;
  alignas(64) float at[2][rows][window];
  alignas(64) float along[lanes][window];        // the weights on x, at their columns
  alignas(64) float upper[lanes], lower[lanes];  // the weights on y
  alignas(64) int line[lanes];                   // of `at`: the upper tap's row of the window, plus one

  template <bool inside>
  PYSTN_INLINE void place(const TileTaps& taps, const TileAxis& x, const TileAxis& y) {
    __m512 x0 = _mm512_load_ps(x.weight[0]), x1 = _mm512_load_ps(x.weight[1]);
    __m512 y0 = _mm512_load_ps(y.weight[0]), y1 = _mm512_load_ps(y.weight[1]);
    __m512i column = _mm512_sub_epi32(_mm512_load_si512(x.cell), _mm512_set1_epi32(taps.left - 1));
    __m512i row = _mm512_sub_epi32(_mm512_load_si512(y.cell), _mm512_set1_epi32(taps.top));
    if (!inside) {
      x0 = _mm512_maskz_mov_ps(taps.inside0 | taps.inside2, x0);
      x1 = _mm512_maskz_mov_ps(taps.inside1 | taps.inside3, x1);
      y0 = _mm512_maskz_mov_ps(taps.inside0 | taps.inside1, y0);
      y1 = _mm512_maskz_mov_ps(taps.inside2 | taps.inside3, y1);
      column = _mm512_min_epi32(_mm512_max_epi32(column, _mm512_setzero_si512()), _mm512_set1_epi32(window));
      row = _mm512_min_epi32(_mm512_max_epi32(row, _mm512_set1_epi32(-1)), _mm512_set1_epi32(window));
    }
    _mm512_store_ps(upper, y0);
    _mm512_store_ps(lower, y1);
    _mm512_store_si512(line, _mm512_add_epi32(row, _mm512_set1_epi32(1)));
    alignas(64) int columns[lanes];
    _mm512_store_si512(columns, column);
    PYSTN_IN_MEMORY(columns);
    // Pairs of weights: of lanes 0, 1, 4, 5, ... in `low`, of 2, 3, 6, 7, ... in `high`.
    alignas(64) float pairs[2 * lanes];
    _mm512_store_ps(pairs, _mm512_unpacklo_ps(x0, x1));
    _mm512_store_ps(pairs + lanes, _mm512_unpackhi_ps(x0, x1));
    PYSTN_IN_MEMORY(pairs);
#pragma GCC unroll 16
    for (int l = 0; l < lanes; ++l) {
      const float* const pair = pairs + (l % 4 < 2 ? 0 : lanes) + l / 4 * 4 + l % 2 * 2;
      const __m128 both = _mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(pair)));
      const __m256i to = _mm256_load_si256(reinterpret_cast<const __m256i*>(window_shift[columns[l]]));
      _mm256_store_ps(along[l], _mm256_permutevar8x32_ps(_mm256_zextps128_ps256(both), to));
    }
  }

  // Adds the terms of a channel, rows first <= r < last of the window, to the image.
  template <int TC>
  PYSTN_INLINE void add(__m512 cotangent, float* to, int64_t row, int first, int last) {
    alignas(64) float g[2][lanes];
    _mm512_store_ps(g[0], _mm512_mul_ps(cotangent, _mm512_load_ps(upper)));
    _mm512_store_ps(g[1], _mm512_mul_ps(cotangent, _mm512_load_ps(lower)));
    PYSTN_IN_MEMORY(g);
    for (int r = 0; r < rows; r += 2)
      for (int k = 0; k < 2; ++k) _mm512_store_ps(at[k][r], _mm512_setzero_ps());
    // Column by column: lanes below each other mostly add to different rows.
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      const int l = i % (lanes / TC) * TC + i / (lanes / TC);
      const __m256 weights = _mm256_load_ps(along[l]);
      for (int k = 0; k < 2; ++k) {
        float* const sum = at[k][line[l]];
        _mm256_store_ps(sum, _mm256_fmadd_ps(weights, _mm256_broadcast_ss(g[k] + l), _mm256_load_ps(sum)));
      }
    }
    for (int r = first; r < last; ++r) {
      const __m256 sum = _mm256_add_ps(_mm256_load_ps(at[0][r + 1]), _mm256_load_ps(at[1][r]));
      _mm256_storeu_ps(to + r * row, _mm256_add_ps(_mm256_loadu_ps(to + r * row), sum));
    }
  }
};

}  // namespace pystn::PYSTN_LEVEL
