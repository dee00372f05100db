// Linear sampling of float32 images in tiles of 16 output pixels, one a lane (AVX-512).
//
// Pixels that are neighbours in the output mostly read neighbours of the source: if a tile's cells
// fit into a window of 8 x 8 source pixels, eight row loads bring all of it into registers and every
// tap is a permutation of them: no gathers. About 10 cycles a tile and channel; a gather per tap
// takes four times that. A tile that does not fit gathers pairs of neighbours. The gradient to the
// input adds up in a private window first, for the same reason.
//
// The maths is that of core/, written once: loops of 16 over its functions, which compilers turn
// into vector instructions. What is here is only where pixels come from and go to.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define PYSTN_TILES 1

#include <immintrin.h>

#include "parts.hpp"
#include "strip.hpp"

namespace pystn::PYSTN_LEVEL {

// A tile's numbers stay in registers only if all that touches them is one function.
#define PYSTN_INLINE inline __attribute__((always_inline))
#define PYSTN_INLINED __attribute__((always_inline))

// Makes the compiler read an array from memory, where a load with broadcast costs no shuffle; left
// alone it takes the lanes apart in registers.
#define PYSTN_IN_MEMORY(array) __asm__("" : "+m"(array))

constexpr int lanes = 16;
constexpr int window = 8;

// Whether the tiles can do what a job asks for.
inline bool fits_tiles(const SampleJob& job, const ImageArray& image) {
  if (job.ndim != 2 || job.image_type != Float::f32 || job.grid_type != Float::f32) return false;
  if (Mode(job.mode) != Mode::linear) return false;
  if (job.size[0] < window || job.size[1] < window || job.size[0] > 1 << 24 || job.size[1] > 1 << 24) return false;
  const int64_t rows = image.axis[1] < 0 ? -image.axis[1] : image.axis[1];
  return image.axis[0] == 1 && rows * job.size[1] < int64_t(1) << 31 && job.output.axis[job.rank - 1] == 1;
}

// Where a tile lies: TR x TC pixels of the output, of which the first rows x columns exist.
template <int TR, int TC>
struct Tile {
  static_assert(TR * TC == lanes, "one lane a pixel");
  int rows, columns;
  bool whole;

  PYSTN_INLINE Tile(int rows, int columns) : rows(rows), columns(columns), whole(rows == TR && columns == TC) {}

  // Columns of row r that exist.
  PYSTN_INLINE unsigned mask(int r) const { return r < rows ? (1u << columns) - 1u : 0u; }

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

  // The coordinates of a tile; lanes that do not exist repeat one that does.
  PYSTN_INLINE void load_grid(const SampleJob& job, const float* from, float* x, float* y) const {
    const int64_t row = row_stride(job, job.grid.axis), column = column_stride(job, job.grid.axis);
    if (whole && job.grid.component == 1 && column == 2) {
      __m512 first, second;
      if (TR == 1) {
        first = _mm512_loadu_ps(from);
        second = _mm512_loadu_ps(from + lanes);
      } else {
        first = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(from)), _mm256_loadu_ps(from + row), 1);
        second = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(from + 2 * row)),
                                    _mm256_loadu_ps(from + 3 * row), 1);
      }
      const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
      _mm512_store_ps(x, _mm512_permutex2var_ps(first, even, second));
      _mm512_store_ps(y, _mm512_permutex2var_ps(first, _mm512_add_epi32(even, _mm512_set1_epi32(1)), second));
      return;
    }
    for (int r = 0; r < TR; ++r)
      for (int c = 0; c < TC; ++c) {
        const float* const at = from + (r < rows ? r : rows - 1) * row + (c < columns ? c : columns - 1) * column;
        x[r * TC + c] = at[0];
        y[r * TC + c] = at[job.grid.component];
      }
  }

  // d loss / d coordinates, into the grid's gradient.
  PYSTN_INLINE void store_grid(const SampleJob& job, float* to, __m512 gx, __m512 gy) const {
    const int64_t row = row_stride(job, job.grad_grid.axis), column = column_stride(job, job.grad_grid.axis);
    if (whole && job.grad_grid.component == 1 && column == 2) {
      const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
      const __m512 first = _mm512_permutex2var_ps(gx, low, gy);
      const __m512 second = _mm512_permutex2var_ps(gx, _mm512_add_epi32(low, _mm512_set1_epi32(8)), gy);
      if (TR == 1) {
        _mm512_storeu_ps(to, first);
        _mm512_storeu_ps(to + lanes, second);
      } else {
        _mm256_storeu_ps(to, _mm512_castps512_ps256(first));
        _mm256_storeu_ps(to + row, _mm512_extractf32x8_ps(first, 1));
        _mm256_storeu_ps(to + 2 * row, _mm512_castps512_ps256(second));
        _mm256_storeu_ps(to + 3 * row, _mm512_extractf32x8_ps(second, 1));
      }
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
};

// Tiles are prepared some at a time: each step is then a loop of independent turns, which the
// processor overlaps, where tile by tile it would wait for one long chain.
constexpr int batch_tiles = 16;

// One axis of a batch of tiles: the cell of each lane, its two weights, d position / d coordinate.
struct BatchAxis {
  alignas(64) int cell[batch_tiles * lanes];
  alignas(64) float weight[2][batch_tiles * lanes];
  alignas(64) float factor[batch_tiles * lanes];

  template <bool with_factor, class Projection>
  PYSTN_INLINE void project(const float* __restrict x, int tiles, const Projection& by) {
    for (int l = 0; l < tiles * lanes; ++l) {
      float w[2], dw[2], f;
      cell[l] = Linear::at<int>(by(x[l], f), 0.0f, w, dw);
      weight[0][l] = w[0];
      weight[1][l] = w[1];
      if (with_factor) factor[l] = f;
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

// How the taps of a tile are read.
enum class Reading { nothing, window_inside, window, pairs_inside, pairs };

template <int value_>
struct Constant {
  static constexpr int value = value_;
};

template <class Body>
PYSTN_INLINE void for_each_tap(Body&& body) {
  body(Constant<0>{});
  body(Constant<1>{});
  body(Constant<2>{});
  body(Constant<3>{});
}

// Where the taps of a tile are: k = 0 .. 3 is (x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1).
struct TileTaps {
  Reading reading;
  int64_t corner;     // offset of the window
  int left, top;      // its first column and row
  __m512i first;      // entry of tap 0 in the window; or offset of the upper pair in the image
  __m512i second;     // offset of the lower pair
  __mmask16 swapped;  // pairs whose first is tap 1 or whose second is tap 0
  __mmask16 inside0, inside1, inside2, inside3;

  template <int k>
  PYSTN_INLINE __mmask16 inside() const {
    return k == 0 ? inside0 : k == 1 ? inside1 : k == 2 ? inside2 : inside3;
  }
  // `corners` are the lanes in the corners of a tile; `row` the image's stride of y. Looking for a
  // window can be left out: it pays from the second channel on.
  PYSTN_INLINE void place(const TileAxis& x, const TileAxis& y, int64_t width, int64_t height, int64_t row,
                          __m512i corners, bool windowed) {
    const __m512i cx = _mm512_load_si512(x.cell), cy = _mm512_load_si512(y.cell), one = _mm512_set1_epi32(1);
    // Unsigned comparison: negative cells are large.
    const bool all = (_mm512_cmplt_epu32_mask(cx, _mm512_set1_epi32(int(width) - 1)) &
                      _mm512_cmplt_epu32_mask(cy, _mm512_set1_epi32(int(height) - 1))) == 0xffff;
    if (all) {
      inside0 = inside1 = inside2 = inside3 = 0xffff;
    } else {
      const __m512i w = _mm512_set1_epi32(int(width)), h = _mm512_set1_epi32(int(height));
      const __mmask16 x0 = _mm512_cmplt_epu32_mask(cx, w), x1 = _mm512_cmplt_epu32_mask(_mm512_add_epi32(cx, one), w);
      const __mmask16 y0 = _mm512_cmplt_epu32_mask(cy, h), y1 = _mm512_cmplt_epu32_mask(_mm512_add_epi32(cy, one), h);
      inside0 = x0 & y0;
      inside1 = x1 & y0;
      inside2 = x0 & y1;
      inside3 = x1 & y1;
      if (!((x0 | x1) & (y0 | y1))) {
        reading = Reading::nothing;
        return;
      }
    }
    if (windowed && place_window(cx, cy, all, width, height, row, corners)) return;
    const __m512i stride = _mm512_set1_epi32(int(row));
    if (all) {
      reading = Reading::pairs_inside;
      first = _mm512_add_epi32(_mm512_mullo_epi32(cy, stride), cx);
      second = _mm512_add_epi32(first, stride);
      return;
    }
    // Pairs of neighbours in a row, at places where both are in the image: at its borders one
    // before or after the cell, so that the other of the two is the tap.
    reading = Reading::pairs;
    const auto clamp = [](__m512i i, int64_t last) PYSTN_INLINED {
      return _mm512_min_epi32(_mm512_max_epi32(i, _mm512_setzero_si512()), _mm512_set1_epi32(int(last)));
    };
    const __m512i pair = clamp(cx, width - 2);
    swapped = _mm512_cmpneq_epi32_mask(pair, cx);
    first = _mm512_add_epi32(_mm512_mullo_epi32(clamp(cy, height - 1), stride), pair);
    second = _mm512_add_epi32(_mm512_mullo_epi32(clamp(_mm512_add_epi32(cy, one), height - 1), stride), pair);
  }

  // Places a window over the tile; whether it fits.
  PYSTN_INLINE bool place_window(__m512i cx, __m512i cy, bool all, int64_t width, int64_t height, int64_t row,
                                 __m512i corners) {
    const __m512i one = _mm512_set1_epi32(1);
    // The extremes of a smooth grid are in a tile's corners; it is checked below. Both axes at
    // once: lanes 0-3 are the corners' x, lanes 4-7 their y.
    __m256i least = _mm512_castsi512_si256(_mm512_permutex2var_epi32(cx, corners, cy));
    least = _mm256_min_epi32(least, _mm256_shuffle_epi32(least, 0xb1));
    least = _mm256_min_epi32(least, _mm256_shuffle_epi32(least, 0x4e));
    const __m256i most =
        _mm256_inserti128_si256(_mm256_set1_epi32(int(width) - window), _mm_set1_epi32(int(height) - window), 1);
    least = _mm256_max_epi32(_mm256_min_epi32(least, most), _mm256_setzero_si256());
    left = _mm256_extract_epi32(least, 0);
    top = _mm256_extract_epi32(least, 4);
    const __m512i lx = _mm512_sub_epi32(cx, _mm512_broadcastd_epi32(_mm256_castsi256_si128(least)));
    const __m512i ly = _mm512_sub_epi32(cy, _mm512_broadcastd_epi32(_mm256_extracti128_si256(least, 1)));
    corner = top * row + left;
    bool fits;
    if (all) {
      fits = _mm512_cmplt_epu32_mask(_mm512_max_epu32(lx, ly), _mm512_set1_epi32(window - 1)) == 0xffff;
    } else {
      // Only taps inside the image have to be in the window; they may start one before it.
      const __m512i size = _mm512_set1_epi32(window);
      const __mmask16 x0 = _mm512_cmplt_epu32_mask(lx, size),
                      x1 = _mm512_cmplt_epu32_mask(_mm512_add_epi32(lx, one), size);
      const __mmask16 y0 = _mm512_cmplt_epu32_mask(ly, size),
                      y1 = _mm512_cmplt_epu32_mask(_mm512_add_epi32(ly, one), size);
      fits = !((inside0 & ~(x0 & y0)) | (inside1 & ~(x1 & y0)) | (inside2 & ~(x0 & y1)) | (inside3 & ~(x1 & y1)));
    }
    reading = all ? Reading::window_inside : Reading::window;
    first = _mm512_add_epi32(_mm512_slli_epi32(ly, 3), lx);
    return fits;
  }
};

// Reads the four taps of each lane from one channel; those outside the image read zero.
template <Reading how>
struct TapReader {
  const TileTaps& taps;
  int64_t row;
  __m512i entry0, entry1, entry2, entry3;
  __mmask16 lower0, lower1, lower2, lower3;  // entries in the lower half of the window

  PYSTN_INLINE TapReader(const TileTaps& taps, int64_t row) : taps(taps), row(row) {
    if constexpr (how == Reading::window_inside || how == Reading::window) {
      const __m512i half = _mm512_set1_epi32(window * window / 2);
      entry0 = taps.first;
      entry1 = _mm512_add_epi32(entry0, _mm512_set1_epi32(1));
      entry2 = _mm512_add_epi32(entry0, _mm512_set1_epi32(window));
      entry3 = _mm512_add_epi32(entry0, _mm512_set1_epi32(window + 1));
      lower0 = _mm512_test_epi32_mask(entry0, half);
      lower1 = _mm512_test_epi32_mask(entry1, half);
      lower2 = _mm512_test_epi32_mask(entry2, half);
      lower3 = _mm512_test_epi32_mask(entry3, half);
    }
  }

  PYSTN_INLINE void operator()(const float* channel, __m512 (&tap)[4]) const {
    if constexpr (how == Reading::window_inside || how == Reading::window) {
      const float* const from = channel + taps.corner;
      const auto two_rows = [&](const float* at) PYSTN_INLINED {
        return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(at)), _mm256_loadu_ps(at + row), 1);
      };
      const __m512 rows01 = two_rows(from), rows23 = two_rows(from + 2 * row);
      const __m512 rows45 = two_rows(from + 4 * row), rows67 = two_rows(from + 6 * row);
      const auto find = [&](__m512i entry, __mmask16 lower) PYSTN_INLINED {
        return _mm512_mask_blend_ps(lower, _mm512_permutex2var_ps(rows01, entry, rows23),
                                    _mm512_permutex2var_ps(rows45, entry, rows67));
      };
      tap[0] = find(entry0, lower0);
      tap[1] = find(entry1, lower1);
      tap[2] = find(entry2, lower2);
      tap[3] = find(entry3, lower3);
      if (how == Reading::window)
        for_each_tap([&](auto k)
                         PYSTN_INLINED { tap[k.value] = _mm512_maskz_mov_ps(taps.inside<k.value>(), tap[k.value]); });
    } else {
      const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
      const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
      const auto gather = [&](__m512i at, __mmask16 in0, __mmask16 in1, __m512& tap0, __m512& tap1) PYSTN_INLINED {
        const __m512 low = _mm512_castpd_ps(_mm512_i32gather_pd(_mm512_castsi512_si256(at), channel, 4));
        const __m512 high = _mm512_castpd_ps(_mm512_i32gather_pd(_mm512_extracti32x8_epi32(at, 1), channel, 4));
        if (how == Reading::pairs_inside) {
          tap0 = _mm512_permutex2var_ps(low, even, high);
          tap1 = _mm512_permutex2var_ps(low, odd, high);
          return;
        }
        const __m512i tap0_at = _mm512_mask_mov_epi32(even, taps.swapped, odd);
        const __m512i tap1_at = _mm512_mask_mov_epi32(odd, taps.swapped, even);
        tap0 = _mm512_maskz_permutex2var_ps(in0, low, tap0_at, high);
        tap1 = _mm512_maskz_permutex2var_ps(in1, low, tap1_at, high);
      };
      gather(taps.first, taps.inside0, taps.inside1, tap[0], tap[1]);
      gather(taps.second, taps.inside2, taps.inside3, tap[2], tap[3]);
    }
  }
};

// Weight of tap k.
struct TapWeights {
  __m512 of[4];

  PYSTN_INLINE TapWeights(const TileAxis& x, const TileAxis& y) {
    for_each_tap([&](auto k) PYSTN_INLINED {
      of[k.value] = _mm512_mul_ps(_mm512_load_ps(x.weight[k.value % 2]), _mm512_load_ps(y.weight[k.value / 2]));
    });
  }
};

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
    // The two weights of a lane (entries 0 and 1) moved to the columns of its taps, from -1 on;
    // entry 2 is a zero.
    alignas(32) static constexpr int shift[window + 1][window] = {
        {1, 2, 2, 2, 2, 2, 2, 2}, {0, 1, 2, 2, 2, 2, 2, 2}, {2, 0, 1, 2, 2, 2, 2, 2},
        {2, 2, 0, 1, 2, 2, 2, 2}, {2, 2, 2, 0, 1, 2, 2, 2}, {2, 2, 2, 2, 0, 1, 2, 2},
        {2, 2, 2, 2, 2, 0, 1, 2}, {2, 2, 2, 2, 2, 2, 0, 1}, {2, 2, 2, 2, 2, 2, 2, 0}};
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
      const __m256i to = _mm256_load_si256(reinterpret_cast<const __m256i*>(shift[columns[l]]));
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

template <template <class> class Fold, int TR, int TC>
struct TiledSampler {
  using Place = Tile<TR, TC>;

  // The lanes in a tile's corners, of the first and of the second of two vectors.
  static PYSTN_INLINE __m512i corners() {
    return _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 31, 32 - TC, 15 + TC, 16, 15, 16 - TC, TC - 1, 0);
  }

  // Element offsets of a tile in the output and in the grid's gradient.
  struct At {
    int64_t output, grad_grid;
  };

  // A batch of square tiles is a strip.
  static_assert(TR == 1 || (TR == strip_rows && batch_tiles * TC == strip_columns));

  // Calls body(taps, x, y, tile, at) for the tiles of one chunk, in order; for those that may meet
  // `part` if it is given.
  template <bool with_factor, class Body>
  static PYSTN_INLINE void for_each_tile(const SampleJob& job, int64_t n, int64_t chunk, int64_t image_row,
                                         const Part* part, bool windowed, Body&& body) {
    const Reach* reach = part && job.reach && TR > 1 ? reaches_of(job, n, chunk) : nullptr;
    const Projection<float, Fold> project_x(job, 0), project_y(job, 1);
    const float* const grid = static_cast<const float*>(job.grid.data) + n * job.grid.batch;
    const int64_t grid_column = column_stride(job, job.grid.axis);
    const int64_t grad_column = column_stride(job, job.grad_grid.axis);
    for_each_block<TR, 1 << 30>(job, chunk, [&](const Span& line) PYSTN_INLINED {
      const float* const from = grid + offset_of(job, job.grid.axis, line);
      const At at{offset_of(job, job.output.axis, line), offset_of(job, job.grad_grid.axis, line)};
      for (int start = 0; start < line.count; start += batch_tiles * TC) {
        if (reach && !part->meets(*reach++)) continue;
        const int tiles = line.count - start < batch_tiles * TC ? (line.count - start + TC - 1) / TC : batch_tiles;
        const auto tile = [&](int t) PYSTN_INLINED {
          const int left = line.count - start - t * TC;
          return Place(line.rows, left < TC ? left : TC);
        };
        alignas(64) float x[batch_tiles * lanes], y[batch_tiles * lanes];
        for (int t = 0; t < tiles; ++t)
          tile(t).load_grid(job, from + (start + t * TC) * grid_column, x + t * lanes, y + t * lanes);
        BatchAxis batch_x, batch_y;
        batch_x.template project<with_factor>(x, tiles, project_x);
        batch_y.template project<with_factor>(y, tiles, project_y);
        TileTaps taps[batch_tiles];
        for (int t = 0; t < tiles; ++t)
          taps[t].place(TileAxis(batch_x, t), TileAxis(batch_y, t), job.size[0], job.size[1], image_row, corners(),
                        windowed);
        for (int t = 0; t < tiles; ++t)
          body(taps[t], TileAxis(batch_x, t), TileAxis(batch_y, t), tile(t),
               At{at.output + start + t * TC, at.grad_grid + (start + t * TC) * grad_column});
      }
    });
  }

  // Calls body(constant of the way of reading).
  template <class Body>
  static PYSTN_INLINE void by_reading(Reading reading, Body&& body) {
    switch (reading) {
      case Reading::nothing:
        break;
      case Reading::window_inside:
        body(Way<Reading::window_inside>{});
        break;
      case Reading::window:
        body(Way<Reading::window>{});
        break;
      case Reading::pairs_inside:
        body(Way<Reading::pairs_inside>{});
        break;
      case Reading::pairs:
        body(Way<Reading::pairs>{});
        break;
    }
  }
  template <Reading how>
  struct Way {
    static constexpr Reading value = how;
  };

  // Whether to go through a chunk once a channel. Scattered samples of an image beyond the reach of
  // the processor's address translation miss it at every tap; one channel alone is within reach.
  static bool channel_by_channel(const SampleJob& job, int64_t n, int64_t chunk, int64_t image_row) {
    const int64_t reach = int64_t(4) << 20;
    if (job.channels == 1 || job.channels * job.size[0] * job.size[1] < reach) return false;
    const Projection<float, Fold> project_x(job, 0), project_y(job, 1);
    const float* const grid = static_cast<const float*>(job.grid.data) + n * job.grid.batch;
    bool first = true, scattered = false;
    for_each_block<TR, 1 << 30>(job, chunk, [&](const Span& line) {
      if (!first) return;
      first = false;
      const Place tile(line.rows, line.count < TC ? line.count : TC);
      alignas(64) float x[lanes], y[lanes];
      tile.load_grid(job, grid + offset_of(job, job.grid.axis, line), x, y);
      BatchAxis batch_x, batch_y;
      batch_x.template project<false>(x, 1, project_x);
      batch_y.template project<false>(y, 1, project_y);
      TileTaps taps;
      taps.place(TileAxis(batch_x, 0), TileAxis(batch_y, 0), job.size[0], job.size[1], image_row, corners(), true);
      scattered = taps.reading == Reading::pairs || taps.reading == Reading::pairs_inside;
    });
    return scattered;
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job), of_image = chunk % chunks_per_image(job);
    const int64_t image_row = job.input.axis[1];
    const int64_t together = channel_by_channel(job, n, of_image, image_row) ? 1 : job.channels;
    for (int64_t c = 0; c < job.channels; c += together) sample_channels(job, n, of_image, c, c + together);
  }

  static void sample_channels(const SampleJob& job, int64_t n, int64_t chunk, int64_t channel0, int64_t channel1) {
    const int64_t image_row = job.input.axis[1], row = row_stride(job, job.output.axis);
    const float* const input = static_cast<const float*>(job.input.data) + n * job.input.batch;
    float* const output = static_cast<float*>(job.output.data) + n * job.output.batch;
    for_each_tile<false>(
        job, n, chunk, image_row, nullptr, channel1 - channel0 > 1,
        [&](const TileTaps& taps, const TileAxis& x, const TileAxis& y, const Place& tile, const At& at) PYSTN_INLINED {
          float* const out = output + at.output;
          if (taps.reading == Reading::nothing)
            for (int64_t c = channel0; c < channel1; ++c)
              tile.store(out + c * job.output.channel, row, _mm512_setzero_ps());
          const TapWeights weight(x, y);
          by_reading(taps.reading, [&](auto way) PYSTN_INLINED {
            const TapReader<decltype(way)::value> read(taps, image_row);
            for (int64_t c = channel0; c < channel1; ++c) {
              __m512 tap[4];
              read(input + c * job.input.channel, tap);
              __m512 sum = _mm512_mul_ps(weight.of[0], tap[0]);
              sum = _mm512_add_ps(sum, _mm512_mul_ps(weight.of[1], tap[1]));
              sum = _mm512_add_ps(sum, _mm512_mul_ps(weight.of[2], tap[2]));
              sum = _mm512_add_ps(sum, _mm512_mul_ps(weight.of[3], tap[3]));
              tile.store(out + c * job.output.channel, row, sum);
            }
          });
        });
  }

  // The gradient to the coordinates of one tile, summed over the samples n0 <= n < n1.
  static PYSTN_INLINE void put_grad_grid(const SampleJob& job, int64_t n0, int64_t n1, const TileTaps& taps,
                                         const TileAxis& x, const TileAxis& y, const Place& tile, const At& at) {
    const int64_t image_row = job.input.axis[1], row = row_stride(job, job.output.axis);
    float* const grad_grid = static_cast<float*>(job.grad_grid.data) + n0 * job.grad_grid.batch;
    const __m512 wx0 = _mm512_load_ps(x.weight[0]), wx1 = _mm512_load_ps(x.weight[1]);
    const __m512 wy0 = _mm512_load_ps(y.weight[0]), wy1 = _mm512_load_ps(y.weight[1]);
    __m512 sx = _mm512_setzero_ps(), sy = _mm512_setzero_ps();
    by_reading(taps.reading, [&](auto way) PYSTN_INLINED {
      const TapReader<decltype(way)::value> read(taps, image_row);
      for (int64_t n = n0; n < n1; ++n) {
        const float* const input = static_cast<const float*>(job.input.data) + n * job.input.batch;
        const float* const cotangent = static_cast<const float*>(job.output.data) + n * job.output.batch + at.output;
        for (int64_t c = 0; c < job.channels; ++c) {
          __m512 tap[4];
          read(input + c * job.input.channel, tap);
          const __m512 g = tile.load(cotangent + c * job.output.channel, row);
          const __m512 dx = _mm512_add_ps(_mm512_mul_ps(wy0, _mm512_sub_ps(tap[1], tap[0])),
                                          _mm512_mul_ps(wy1, _mm512_sub_ps(tap[3], tap[2])));
          const __m512 dy = _mm512_add_ps(_mm512_mul_ps(wx0, _mm512_sub_ps(tap[2], tap[0])),
                                          _mm512_mul_ps(wx1, _mm512_sub_ps(tap[3], tap[1])));
          sx = _mm512_add_ps(sx, _mm512_mul_ps(g, dx));
          sy = _mm512_add_ps(sy, _mm512_mul_ps(g, dy));
        }
      }
    });
    // A factor of 0 is a flat place, whatever the pixels are.
    const __m512 fx = _mm512_load_ps(x.factor), fy = _mm512_load_ps(y.factor), zero = _mm512_setzero_ps();
    tile.store_grid(job, grad_grid + at.grad_grid,
                    _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(fx, zero, _CMP_NEQ_UQ), sx, fx),
                    _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(fy, zero, _CMP_NEQ_UQ), sy, fy));
  }

  static void vjp_grid(const SampleJob& job, int64_t chunk) {
    const int64_t n0 = chunk / chunks_per_image(job), n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    for_each_tile<true>(job, n0, chunk % chunks_per_image(job), job.input.axis[1], nullptr, job.channels > 1,
                        [&](const TileTaps& taps, const TileAxis& x, const TileAxis& y, const Place& tile, const At& at)
                            PYSTN_INLINED { put_grad_grid(job, n0, n1, taps, x, y, tile, at); });
  }

  // Adds the terms of one tile to the part of the input's gradient that a task owns.
  static PYSTN_INLINE void add_grad_input(const SampleJob& job, const Part& part, int64_t n, WindowMatrix& matrix,
                                          const TileTaps& taps, const TileAxis& x, const TileAxis& y, const Place& tile,
                                          const At& at) {
    if (taps.reading == Reading::nothing) return;
    const int64_t image_row = job.grad_input.axis[1], row = row_stride(job, job.output.axis);
    float* const image = static_cast<float*>(job.grad_input.data) + part.n0 * job.grad_input.batch;
    const float* const cotangent = static_cast<const float*>(job.output.data) + n * job.output.batch + at.output;
    if (taps.reading == Reading::pairs || taps.reading == Reading::pairs_inside)
      return add_taps(job, part, taps, x, y, tile, cotangent, row, image);
    const int used = matrix.rows_of(taps, y);
    const int first = part.low > taps.top ? int(part.low - taps.top) : 0;
    const int last = part.high < taps.top + used ? int(part.high - taps.top) : used;
    if (first >= last) return;
    if (taps.reading == Reading::window_inside)
      matrix.fill<true>(taps, x, y, used);
    else
      matrix.fill<false>(taps, x, y, used);
    for (int64_t c = part.channel0; c < part.channel1; ++c) {
      const __m512 g = tile.load(cotangent + c * job.output.channel, row);
      // The matrix has zeros to multiply with, which NaN and infinity would turn into NaN.
      const bool finite = _mm512_cmp_ps_mask(_mm512_sub_ps(g, g), _mm512_setzero_ps(), _CMP_EQ_OQ) == 0xffff;
      if (!finite) return add_taps(job, Part(part, c), taps, x, y, tile, cotangent, row, image);
      matrix.add(g, image + c * job.grad_input.channel + taps.corner, image_row, used, first, last);
    }
  }

  template <bool grid_too>
  static PYSTN_INLINE void vjp_of_part(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear<float>(job);
    WindowMatrix matrix;
    for (int64_t n = part.n0; n < part.n1; ++n)
      for (int64_t chunk = 0; chunk < chunks_per_image(job); ++chunk)
        for_each_tile<grid_too>(job, n, chunk, job.grad_input.axis[1], &part, true,
                                [&](const TileTaps& taps, const TileAxis& x, const TileAxis& y, const Place& tile,
                                    const At& at) PYSTN_INLINED {
                                  add_grad_input(job, part, n, matrix, taps, x, y, tile, at);
                                  if (grid_too) put_grad_grid(job, n, n + 1, taps, x, y, tile, at);
                                });
  }

  static void vjp_input(const SampleJob& job, int64_t task) { vjp_of_part<false>(job, task); }

  // Both gradients in one pass, where a task owns all of an image's.
  static void vjp(const SampleJob& job, int64_t task) { vjp_of_part<true>(job, task); }

  // One tap at a time, for what has no window.
  static void add_taps(const SampleJob& job, const Part& part, const TileTaps& taps, const TileAxis& x,
                       const TileAxis& y, const Place& tile, const float* cotangent, int64_t row, float* image) {
    const int64_t image_row = job.grad_input.axis[1];
    const __m512i cell = _mm512_load_si512(y.cell), low = _mm512_set1_epi32(int(part.low));
    const __m512i height = _mm512_set1_epi32(int(part.high - part.low)), one = _mm512_set1_epi32(1);
    const __m512i line = _mm512_sub_epi32(cell, low);
    const __mmask16 upper = _mm512_cmplt_epu32_mask(line, height) & tile.exist();
    const __mmask16 lower = _mm512_cmplt_epu32_mask(_mm512_add_epi32(line, one), height) & tile.exist();
    const unsigned in0 = taps.inside0 & upper, in1 = taps.inside1 & upper;
    const unsigned in2 = taps.inside2 & lower, in3 = taps.inside3 & lower;
    if (!(in0 | in1 | in2 | in3)) return;
    const TapWeights weight(x, y);
    for (int64_t c = part.channel0; c < part.channel1; ++c) {
      const __m512 g = tile.load(cotangent + c * job.output.channel, row);
      alignas(64) float term[4][lanes];
      for_each_tap([&](auto k) PYSTN_INLINED { _mm512_store_ps(term[k.value], _mm512_mul_ps(g, weight.of[k.value])); });
      float* const channel = image + c * job.grad_input.channel;
      for (int l = 0; l < lanes; ++l) {
        float* const to = channel + y.cell[l] * image_row + x.cell[l];
        const unsigned bit = 1u << l;
        if (in0 & in1 & in2 & in3 & bit) {
          to[0] += term[0][l];
          to[1] += term[1][l];
          to[image_row] += term[2][l];
          to[image_row + 1] += term[3][l];
        } else {
          if (in0 & bit) to[0] += term[0][l];
          if (in1 & bit) to[1] += term[1][l];
          if (in2 & bit) to[image_row] += term[2][l];
          if (in3 & bit) to[image_row + 1] += term[3][l];
        }
      }
    }
  }
};

template <template <class> class Fold>
SampleChunk tiled_body(Direction direction, const SampleJob& job) {
  using Wide = TiledSampler<Fold, 1, 16>;
  using Square = TiledSampler<Fold, 4, 4>;
  const bool square = job.rows >= 4 && (job.channels > 1 || direction != Direction::forward);
  switch (direction) {
    case Direction::forward:
      return square ? Square::forward : Wide::forward;
    case Direction::vjp_input:
      return square ? Square::vjp_input : Wide::vjp_input;
    case Direction::vjp_grid:
      return square ? Square::vjp_grid : Wide::vjp_grid;
    case Direction::vjp:
      return square ? Square::vjp : Wide::vjp;
    default:
      return nullptr;
  }
}

// The tiled body for a job, or null if the general one has to do it.
inline SampleChunk tiled(Direction direction, const SampleJob& job) {
  const bool slopes = direction == Direction::vjp_grid || direction == Direction::vjp;
  const bool reads = direction != Direction::vjp_input, writes = !reads || direction == Direction::vjp;
  if (direction == Direction::jvp || direction == Direction::reach) return nullptr;
  if (reads && !fits_tiles(job, job.input)) return nullptr;
  if (writes && !fits_tiles(job, job.grad_input)) return nullptr;
  if (reads && writes && job.input.axis[1] != job.grad_input.axis[1]) return nullptr;  // one offset serves both
  if (slopes && Subgradient(job.subgradient) != Subgradient::right) return nullptr;
  if (job.boundary[0] != job.boundary[1]) return nullptr;
  switch (Boundary(job.boundary[0])) {
    case Boundary::zeros:
      return tiled_body<Zeros>(direction, job);
    case Boundary::border:
      return tiled_body<Border>(direction, job);
    case Boundary::mirror:
      return tiled_body<Mirror>(direction, job);
    case Boundary::symmetric:
      return tiled_body<Symmetric>(direction, job);
  }
  return nullptr;
}

}  // namespace pystn::PYSTN_LEVEL
#endif
