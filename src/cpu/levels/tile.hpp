// A tile: 16 output pixels, one a lane of an AVX-512 register. Where its pixels lie, and its
// coordinates projected into the source. Included by tiles.hpp alone, where the processor has them.
#pragma once

#include <immintrin.h>

#include "run.hpp"

namespace pystn::PYSTN_LEVEL {

// A tile's numbers stay in registers only if all that touches them is one function.
#define PYSTN_INLINE inline __attribute__((always_inline))
#define PYSTN_INLINED __attribute__((always_inline))

// Makes the compiler read an array from memory, where a load with broadcast costs no shuffle; left
// alone it takes the lanes apart in registers.
#define PYSTN_IN_MEMORY(array) __asm__("" : "+m"(array))

constexpr int lanes = 16;
constexpr int window = 8;

// Where a tile lies: TR x TC pixels of the output, of which the first rows x columns exist.
template <int TR, int TC>
struct Tile {
  static_assert(TR * TC == lanes, "one lane a pixel");
  int rows, columns;
  bool whole;

  PYSTN_INLINE Tile(int rows, int columns) : rows(rows), columns(columns), whole(rows == TR && columns == TC) {}

  // Columns of row r that exist.
  PYSTN_INLINE unsigned mask(int r) const { return r < rows ? (1u << columns) - 1u : 0u; }

  // Both coordinates of these.
  PYSTN_INLINE unsigned pairs(int r) const { return r < rows ? unsigned((uint64_t(1) << 2 * columns) - 1) : 0u; }

  // For each lane one that exists: itself, or one in the last row or column.
  PYSTN_INLINE __m512i existing() const {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i column = _mm512_and_si512(lane, _mm512_set1_epi32(TC - 1));
    const __m512i row = _mm512_sub_epi32(lane, column);
    return _mm512_add_epi32(_mm512_min_epi32(row, _mm512_set1_epi32((rows - 1) * TC)),
                            _mm512_min_epi32(column, _mm512_set1_epi32(columns - 1)));
  }

  // Lanes that exist.
  PYSTN_INLINE __mmask16 exist() const {
    unsigned all = 0;
    for (int r = 0; r < TR; ++r) all |= mask(r) << r * TC;
    return whole ? 0xffff : all;
  }

  PYSTN_INLINE __m512 load(const float* from, int64_t row) const {
    if (TR == 1) return whole ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(mask(0), from);
    const auto part = [&](int r) PYSTN_INLINED {
      return whole ? _mm_loadu_ps(from + r * row) : _mm_maskz_loadu_ps(mask(r), from + r * row);
    };
    const __m512 two = _mm512_insertf32x4(_mm512_castps128_ps512(part(0)), part(1), 1);
    return _mm512_insertf32x4(_mm512_insertf32x4(two, part(2), 2), part(3), 3);
  }

  PYSTN_INLINE void store(float* to, int64_t row, __m512 values) const {
    if (TR == 1) return whole ? _mm512_storeu_ps(to, values) : _mm512_mask_storeu_ps(to, mask(0), values);
    const auto part = [&](int r, __m128 four) PYSTN_INLINED {
      whole ? _mm_storeu_ps(to + r * row, four) : _mm_mask_storeu_ps(to + r * row, mask(r), four);
    };
    part(0, _mm512_castps512_ps128(values));
    part(1, _mm512_extractf32x4_ps(values, 1));
    part(2, _mm512_extractf32x4_ps(values, 2));
    part(3, _mm512_extractf32x4_ps(values, 3));
  }

  // Whether the coordinates of a grid are pairs next to each other.
  static PYSTN_INLINE bool has_pairs(const SampleJob& job) {
    return job.grid.component == 1 && column_stride(job, job.grid.axis) == 2;
  }

  // The coordinates of a tile, from such a grid; lanes that do not exist repeat one that does.
  PYSTN_INLINE void load_pairs(const float* from, int64_t row, float* x, float* y) const {
    __m512 first, second;
    if (TR == 1) {
      first = whole ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(__mmask16(pairs(0)), from);
      second =
          whole ? _mm512_loadu_ps(from + lanes) : _mm512_maskz_loadu_ps(__mmask16(pairs(0) >> lanes), from + lanes);
    } else {
      const auto part = [&](int r) PYSTN_INLINED {
        return whole ? _mm256_loadu_ps(from + r * row) : _mm256_maskz_loadu_ps(__mmask8(pairs(r)), from + r * row);
      };
      first = _mm512_insertf32x8(_mm512_castps256_ps512(part(0)), part(1), 1);
      second = _mm512_insertf32x8(_mm512_castps256_ps512(part(2)), part(3), 1);
    }
    __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    if (!whole) even = _mm512_permutexvar_epi32(existing(), even);
    _mm512_store_ps(x, _mm512_permutex2var_ps(first, even, second));
    _mm512_store_ps(y, _mm512_permutex2var_ps(first, _mm512_add_epi32(even, _mm512_set1_epi32(1)), second));
  }

  // The same from any grid.
  PYSTN_INLINE void load_grid(const SampleJob& job, const float* from, float* x, float* y) const {
    const int64_t row = row_stride(job, job.grid.axis), column = column_stride(job, job.grid.axis);
    if (has_pairs(job)) return load_pairs(from, row, x, y);
    for (int r = 0; r < TR; ++r)
      for (int c = 0; c < TC; ++c) {
        const float* const at = from + (r < rows ? r : rows - 1) * row + (c < columns ? c : columns - 1) * column;
        x[r * TC + c] = at[0];
        y[r * TC + c] = at[job.grid.component];
      }
  }

  // d loss / d coordinates, into the grid's gradient.
  template <class G>
  PYSTN_INLINE void store_grid(const SampleJob& job, G* to, int64_t row, __m512 gx, __m512 gy) const {
    const int64_t column = column_stride(job, job.grad_grid.axis);
    if (job.grad_grid.component == 1 && column == 2) {
      const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
      const __m512 first = _mm512_permutex2var_ps(gx, low, gy);
      const __m512 second = _mm512_permutex2var_ps(gx, _mm512_add_epi32(low, _mm512_set1_epi32(8)), gy);
      const auto put = [&](int part, __m256 pairs_of_four) PYSTN_INLINED {
        const unsigned exist = TR == 1 ? pairs(0) >> part * 8 : pairs(part);
        store_pairs(to + (TR == 1 ? part * 8 : part * row), __mmask8(exist), pairs_of_four);
      };
      put(0, _mm512_castps512_ps256(first));
      put(1, _mm512_extractf32x8_ps(first, 1));
      put(2, _mm512_castps512_ps256(second));
      put(3, _mm512_extractf32x8_ps(second, 1));
      return;
    }
    alignas(64) float x[lanes], y[lanes];
    _mm512_store_ps(x, gx);
    _mm512_store_ps(y, gy);
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c) {
        to[r * row + c * column] = x[r * TC + c];
        to[r * row + c * column + job.grad_grid.component] = y[r * TC + c];
      }
  }

 private:
  PYSTN_INLINE void store_pairs(float* to, __mmask8 exist, __m256 numbers) const {
    whole ? _mm256_storeu_ps(to, numbers) : _mm256_mask_storeu_ps(to, exist, numbers);
  }
  PYSTN_INLINE void store_pairs(double* to, __mmask8 exist, __m256 numbers) const {
    const __m512d wide = _mm512_cvtps_pd(numbers);
    whole ? _mm512_storeu_pd(to, wide) : _mm512_mask_storeu_pd(to, exist, wide);
  }
};

// Tiles are prepared some at a time: each step is then a loop of independent turns, which the
// processor overlaps, where tile by tile it would wait for one long chain.
constexpr int batch_tiles = 16;

// One axis of a batch of tiles: the cell of each lane, the weights of its taps, d position / d coordinate. Some of the
// tiles, from `first` on, are projected together.
struct BatchAxis {
  alignas(64) int cell[batch_tiles * lanes];
  alignas(64) float weight[2][batch_tiles * lanes];
  alignas(64) float factor[batch_tiles * lanes];

  template <bool with_factor, class P, class Projection, class Kernel>
  PYSTN_INLINE void project(const P* x, int first, int tiles, const Projection& by, const Kernel& kernel) {
    if constexpr (Projection::Folding::periodic) {
      Flag within = 1;
      for (int l = 0; l < tiles * lanes; ++l) within &= by.fold.within(by.normalize(x[l]));
      if (!within) return project_lanes<with_factor, true>(x, first, tiles, by, kernel);
    }
    project_lanes<with_factor, false>(x, first, tiles, by, kernel);
  }

 private:
  template <bool with_factor, bool divides, class P, class Projection, class Kernel>
  PYSTN_INLINE void project_lanes(const P* __restrict x, int first, int tiles, const Projection& by,
                                  const Kernel& kernel) {
    const int at = first * lanes;
    for (int l = 0; l < tiles * lanes; ++l) {
      P w[2], f, t;
      cell[at + l] = int(kernel.place(by.template operator()<divides>(x[l], f), t));
      kernel.weights(t, w, nullptr, nullptr);
      for (int k = 0; Kernel::taps > 1 && k < Kernel::taps; ++k) weight[k][at + l] = float(w[k]);  // of one it is 1
      if (with_factor) factor[at + l] = float(f);
    }
  }
};

// The lanes of one tile.
struct TileAxis {
  const int* cell;
  const float* weight[2];
  const float* factor;

  PYSTN_INLINE TileAxis(const BatchAxis& batch, int tile)
      : cell(batch.cell + tile * lanes),
        weight{batch.weight[0] + tile * lanes, batch.weight[1] + tile * lanes},
        factor(batch.factor + tile * lanes) {}
};

}  // namespace pystn::PYSTN_LEVEL
