// Tiles whose coordinates are made from a matrix, and the way back of their gradient to it.
// Included by tiles.hpp alone.
#pragma once

#include "matrix_source.hpp"
#include "tile.hpp"

namespace pystn::PYSTN_LEVEL {

// A line of tiles, as high as one, under a matrix.
template <int TR, int TC>
struct TileLattice {
  float y[TR];                   // target coordinates of its rows
  __m512 slope[3], constant[3];  // of the matrix' rows along x, for the lanes of any of its tiles

  PYSTN_INLINE TileLattice(const SampleJob& job, int64_t n, const Span& line) {
    if (is_stored(job)) return;
    alignas(64) float at[3][lanes];
    for (int r = 0; r < TR; ++r) {
      // Rows that do not exist repeat the last.
      const int64_t row = line.row + (r < line.rows ? r : line.rows - 1);
      const LatticeSpan<float> lattice(job, n, Span{line.outer, row, line.column, 1, 1});
      const MatrixRow<float> map = lattice.under(job, job.source.theta);
      y[r] = lattice.at[1];
      for (int k = 0; k < matrix_rows(job); ++k) {
        for (int c = 0; c < TC; ++c) at[k][r * TC + c] = map.constant[k];
        slope[k] = _mm512_set1_ps(map.slope[k]);
      }
    }
    for (int k = 0; k < matrix_rows(job); ++k) constant[k] = _mm512_load_ps(at[k]);
  }

  // The target's x in the lanes of a tile, from those of its columns.
  static PYSTN_INLINE __m512 spread(const float* columns) {
    return TR == 1 ? _mm512_loadu_ps(columns) : _mm512_broadcast_f32x4(_mm_loadu_ps(columns));
  }

  PYSTN_INLINE __m512 row(int k, __m512 x) const { return _mm512_add_ps(_mm512_mul_ps(slope[k], x), constant[k]); }

  static PYSTN_INLINE void divide(const Horizon<float> horizon, int tiles, const float* __restrict q,
                                  float* __restrict x, float* __restrict y) {
    for (int l = 0; l < tiles * lanes; ++l) {
      x[l] = horizon.project(x[l], q[l]);
      y[l] = horizon.project(y[l], q[l]);
    }
  }

  // Coordinates x, y of `tiles` tiles from column `start` of the line, and the target's x of their columns.
  PYSTN_INLINE void make(const SampleJob& job, const Span& line, int start, int tiles, float* target, float* x,
                         float* y) const {
    const int count = tiles * TC < line.count - start ? tiles * TC : line.count - start;
    target_columns(job, line.column + start, count, target);
    for (int i = count; i < tiles * TC; ++i) target[i] = target[count - 1];
    for (int t = 0; t < tiles; ++t) {
      const __m512 columns = spread(target + t * TC);
      _mm512_store_ps(x + t * lanes, row(0, columns));
      _mm512_store_ps(y + t * lanes, row(1, columns));
    }
    if (!is_projective(job)) return;
    alignas(64) float q[batch_tiles * lanes];
    for (int t = 0; t < tiles; ++t) _mm512_store_ps(q + t * lanes, row(2, spread(target + t * TC)));
    divide(horizon_of<float>(job), tiles, q, x, y);
  }
};

// The gradient to the matrix, in double, a sum per lane: of r, r x and r y, where r is the gradient
// to a row of matrix (x, y, 1)^T.
template <int TR, int TC>
struct MatrixSums {
  struct Lanes {
    __m512d low, high;
    PYSTN_INLINE Lanes() : low(_mm512_setzero_pd()), high(_mm512_setzero_pd()) {}
    PYSTN_INLINE explicit Lanes(__m512 x)
        : low(_mm512_cvtps_pd(_mm512_castps512_ps256(x))), high(_mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))) {}
    PYSTN_INLINE void add(const Lanes& other) {
      low = _mm512_add_pd(low, other.low);
      high = _mm512_add_pd(high, other.high);
    }
    PYSTN_INLINE void add(const Lanes& a, const Lanes& b) {
      low = _mm512_fmadd_pd(a.low, b.low, low);
      high = _mm512_fmadd_pd(a.high, b.high, high);
    }
    PYSTN_INLINE double sum() const { return _mm512_reduce_add_pd(low) + _mm512_reduce_add_pd(high); }
  };
  const TileLattice<TR, TC>* line = nullptr;
  Lanes of_line[3];  // of r, over the line so far
  Lanes total[3], moment_x[3], moment_y[3];

  PYSTN_INLINE void begin(const TileLattice<TR, TC>& next) { line = &next; }

  // y is constant along a line: its moment is added up at the end of it.
  PYSTN_INLINE void end() {
    alignas(64) float y[lanes];
    for (int l = 0; l < lanes; ++l) y[l] = line->y[l / TC];
    for (int k = 0; k < 3; ++k) {
      total[k].add(of_line[k]);
      moment_y[k].add(of_line[k], Lanes(_mm512_load_ps(y)));
      of_line[k] = Lanes();
    }
  }

  // gx and gy are the gradient to the coordinates x and y of a tile.
  PYSTN_INLINE void add(const SampleJob& job, __m512 gx, __m512 gy, const float* x, const float* y,
                        const float* target) {
    const __m512 columns = TileLattice<TR, TC>::spread(target);
    if (!is_projective(job)) {
      add_row(0, gx, columns);
      add_row(1, gy, columns);
      return;
    }
    // Where the horizon hides, both gradients are 0 and the coordinates no numbers.
    const __m512 zero = _mm512_setzero_ps(), q = line->row(2, columns);
    const __mmask16 seen = _mm512_cmp_ps_mask(gx, zero, _CMP_NEQ_UQ) | _mm512_cmp_ps_mask(gy, zero, _CMP_NEQ_UQ);
    const __m512 rx = _mm512_maskz_div_ps(seen, gx, q), ry = _mm512_maskz_div_ps(seen, gy, q);
    const __m512 both = _mm512_add_ps(_mm512_mul_ps(rx, _mm512_load_ps(x)), _mm512_mul_ps(ry, _mm512_load_ps(y)));
    add_row(0, rx, columns);
    add_row(1, ry, columns);
    add_row(2, _mm512_maskz_sub_ps(seen, zero, both), columns);
  }

  PYSTN_INLINE void add_row(int k, __m512 r, __m512 columns) {
    const Lanes terms(r);
    of_line[k].add(terms);
    moment_x[k].add(terms, Lanes(columns));
  }

  void add_to_matrix(const SampleJob& job, int64_t chunk) const {
    double* to = sums_of(job, chunk);
    for (int k = 0; k < matrix_rows(job); ++k, to += 3) {
      to[0] += moment_x[k].sum();
      to[1] += moment_y[k].sum();
      to[2] += total[k].sum();
    }
  }
};

}  // namespace pystn::PYSTN_LEVEL
