// The taps of a tile: found in a window of the source that is held in registers, or gathered in
// pairs of neighbours. Included by tiles.hpp alone.
#pragma once

#include "tile.hpp"

namespace pystn::PYSTN_LEVEL {

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
  bool near;          // the taps of the tile are near each other, around `corner`
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
  // `corners` are the lanes in the corners of a tile; `row` the image's stride of y. Without `windows` all is pairs.
  template <bool windows>
  PYSTN_INLINE void place(const TileAxis& x, const TileAxis& y, int64_t width, int64_t height, int64_t row,
                          __m512i corners) {
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
        near = false;
        return;
      }
    }
    near = windows && place_window(cx, cy, all, width, height, row, corners);
    if (near) return;
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

  // The same where tap 0 is the only one. It is gathered: to find it in a window costs as much, and the window to
  // place.
  PYSTN_INLINE void place_first(const TileAxis& x, const TileAxis& y, int64_t width, int64_t height, int64_t row) {
    const __m512i cx = _mm512_load_si512(x.cell), cy = _mm512_load_si512(y.cell);
    inside0 = _mm512_cmplt_epu32_mask(cx, _mm512_set1_epi32(int(width))) &
              _mm512_cmplt_epu32_mask(cy, _mm512_set1_epi32(int(height)));
    inside1 = inside2 = inside3 = 0;
    first = _mm512_add_epi32(_mm512_mullo_epi32(cy, _mm512_set1_epi32(int(row))), cx);
    corner = _mm_cvtsi128_si32(_mm512_castsi512_si128(first));
    const auto spans = [](const int* cell)
                           PYSTN_INLINED { return unsigned(cell[lanes - 1] - cell[0] + window) <= 2u * window; };
    near = spans(x.cell) && spans(y.cell);
    reading = inside0 ? Reading::pairs : Reading::nothing;
  }

  // Tap 0 of each lane from one channel, placed by place_first. Masked even where all are inside: a gather without a
  // mask waits for what its register held.
  PYSTN_INLINE __m512 read_first(const float* channel) const {
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), inside0, first, channel, 4);
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

// A window of one channel in registers.
struct Window {
  __m512 rows01, rows23, rows45, rows67;

  PYSTN_INLINE Window(const float* from, int64_t row) {
    const auto two_rows = [&](const float* at) PYSTN_INLINED {
      return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(at)), _mm256_loadu_ps(at + row), 1);
    };
    rows01 = two_rows(from);
    rows23 = two_rows(from + 2 * row);
    rows45 = two_rows(from + 4 * row);
    rows67 = two_rows(from + 6 * row);
  }

  // Its entries; `lower` are those in its lower half.
  PYSTN_INLINE __m512 find(__m512i entry, __mmask16 lower) const {
    return _mm512_mask_blend_ps(lower, _mm512_permutex2var_ps(rows01, entry, rows23),
                                _mm512_permutex2var_ps(rows45, entry, rows67));
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
      const Window held(channel + taps.corner, row);
      tap[0] = held.find(entry0, lower0);
      tap[1] = held.find(entry1, lower1);
      tap[2] = held.find(entry2, lower2);
      tap[3] = held.find(entry3, lower3);
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

}  // namespace pystn::PYSTN_LEVEL
