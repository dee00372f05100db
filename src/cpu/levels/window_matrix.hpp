// The way back from a tile to the input: its terms added up in a window first, then to the image. Here
// for some channels, whose common factors are worth a matrix. Included by tiles.hpp alone.
#pragma once

#include "tile_taps.hpp"

namespace pystn::PYSTN_LEVEL {

// The two weights of a lane (entries 0 and 1) moved to the columns of its taps in a window, from -1 on;
// entry 2 is a zero.
alignas(32) static constexpr int window_shift[window + 1][window] = {
    {1, 2, 2, 2, 2, 2, 2, 2}, {0, 1, 2, 2, 2, 2, 2, 2}, {2, 0, 1, 2, 2, 2, 2, 2},
    {2, 2, 0, 1, 2, 2, 2, 2}, {2, 2, 2, 0, 1, 2, 2, 2}, {2, 2, 2, 2, 0, 1, 2, 2},
    {2, 2, 2, 2, 2, 0, 1, 2}, {2, 2, 2, 2, 2, 2, 0, 1}, {2, 2, 2, 2, 2, 2, 2, 0}};

// What a tile adds to its window, as a matrix: window = sum over lanes of cotangent * matrix[lane].
struct WindowMatrix {
  // Rows of the window, and two that stand for taps outside it.
  static constexpr int below = window, above = window + 1;
  alignas(64) float at[lanes][window + 2][window];

  static PYSTN_INLINE __m512i line_of(const TileTaps& taps, const TileAxis& y) {
    const __m512i line = _mm512_sub_epi32(_mm512_load_si512(y.cell), _mm512_set1_epi32(taps.top));
    return _mm512_min_epi32(_mm512_max_epi32(line, _mm512_set1_epi32(-1)), _mm512_set1_epi32(window - 1));
  }

  // How many rows of the window the tile may reach.
  static PYSTN_INLINE int rows_of(const TileTaps& taps, const TileAxis& y) {
    const int last = _mm512_reduce_max_epi32(line_of(taps, y)) + 2;
    return last < window ? last : window;
  }

  template <bool inside>
  PYSTN_INLINE void fill(const TileTaps& taps, const TileAxis& x, const TileAxis& y, int used) {
    const float *x0 = x.weight[0], *x1 = x.weight[1], *y0 = y.weight[0], *y1 = y.weight[1];
    alignas(64) float masked[4][lanes];
    alignas(64) int columns[lanes], upper[lanes], lower[lanes];
    __m512i column = _mm512_sub_epi32(_mm512_load_si512(x.cell), _mm512_set1_epi32(taps.left - 1));
    __m512i line = _mm512_sub_epi32(_mm512_load_si512(y.cell), _mm512_set1_epi32(taps.top));
    if (!inside) {
      // Taps outside the image weigh nothing, wherever they are put.
      const auto mask = [&](int k, __mmask16 in, const float* weights) PYSTN_INLINED {
        _mm512_store_ps(masked[k], _mm512_maskz_load_ps(in, weights));
        return masked[k];
      };
      x0 = mask(0, taps.inside0 | taps.inside2, x0);
      x1 = mask(1, taps.inside1 | taps.inside3, x1);
      y0 = mask(2, taps.inside0 | taps.inside1, y0);
      y1 = mask(3, taps.inside2 | taps.inside3, y1);
      column = _mm512_min_epi32(_mm512_max_epi32(column, _mm512_setzero_si512()), _mm512_set1_epi32(window));
      line = line_of(taps, y);
    }
    _mm512_store_si512(columns, column);
    _mm512_store_si512(lower, _mm512_add_epi32(line, _mm512_set1_epi32(1)));
    if (!inside) {
      const __mmask16 before = _mm512_cmplt_epi32_mask(line, _mm512_setzero_si512());
      line = _mm512_mask_mov_epi32(line, before, _mm512_set1_epi32(above));
    }
    _mm512_store_si512(upper, line);
    PYSTN_IN_MEMORY(columns);
    PYSTN_IN_MEMORY(upper);
    PYSTN_IN_MEMORY(lower);
#pragma GCC unroll 16
    for (int l = 0; l < lanes; ++l) {
      const __m128 pair = _mm_unpacklo_ps(_mm_load_ss(x0 + l), _mm_load_ss(x1 + l));
      const __m256i to = _mm256_load_si256(reinterpret_cast<const __m256i*>(window_shift[columns[l]]));
      const __m256 row = _mm256_permutevar8x32_ps(_mm256_zextps128_ps256(pair), to);
      for (int r = 0; r < 6; r += 2) _mm512_store_ps(at[l][r], _mm512_setzero_ps());
      if (used > 6) _mm512_store_ps(at[l][6], _mm512_setzero_ps());
      _mm256_store_ps(at[l][upper[l]], _mm256_mul_ps(row, _mm256_broadcast_ss(y0 + l)));
      _mm256_store_ps(at[l][lower[l]], _mm256_mul_ps(row, _mm256_broadcast_ss(y1 + l)));
    }
  }

  // Adds rows first <= r < last of the window to the image.
  PYSTN_INLINE void add(__m512 cotangent, float* to, int64_t row, int used, int first, int last) const {
    if (used <= 6)
      add_pairs<3>(cotangent, to, row, first, last);
    else
      add_pairs<4>(cotangent, to, row, first, last);
  }

  template <int pairs>
  PYSTN_INLINE void add_pairs(__m512 cotangent, float* to, int64_t row, int first, int last) const {
    alignas(64) float g[lanes];
    _mm512_store_ps(g, cotangent);
    PYSTN_IN_MEMORY(g);
    __m512 even[pairs], odd[pairs];  // two sums, for the latency of an addition
    for (int j = 0; j < pairs; ++j) {
      even[j] = _mm512_mul_ps(_mm512_set1_ps(g[0]), _mm512_load_ps(at[0][2 * j]));
      odd[j] = _mm512_mul_ps(_mm512_set1_ps(g[1]), _mm512_load_ps(at[1][2 * j]));
    }
#pragma GCC unroll 8
    for (int l = 2; l < lanes; l += 2)
      for (int j = 0; j < pairs; ++j) {
        even[j] = _mm512_fmadd_ps(_mm512_set1_ps(g[l]), _mm512_load_ps(at[l][2 * j]), even[j]);
        odd[j] = _mm512_fmadd_ps(_mm512_set1_ps(g[l + 1]), _mm512_load_ps(at[l + 1][2 * j]), odd[j]);
      }
    const auto add_row = [&](int r, __m256 values) PYSTN_INLINED {
      if (r >= first && r < last) _mm256_storeu_ps(to + r * row, _mm256_add_ps(_mm256_loadu_ps(to + r * row), values));
    };
    for (int j = 0; j < pairs; ++j) {
      const __m512 sum = _mm512_add_ps(even[j], odd[j]);
      add_row(2 * j, _mm512_castps512_ps256(sum));
      add_row(2 * j + 1, _mm512_extractf32x8_ps(sum, 1));
    }
  }
};

}  // namespace pystn::PYSTN_LEVEL
