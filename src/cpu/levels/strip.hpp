// A strip: up to 4 x 64 output pixels whose coordinates are projected into the source together.
// This is the first stage of every sample: conventions and boundaries end here, and what follows
// sees positions in pixels for which "outside the window reads zero" is the only rule.
#pragma once

#include "boundaries.hpp"
#include "coordinates.hpp"
#include "interpolation.hpp"
#include "job.hpp"

namespace pystn::PYSTN_LEVEL {

constexpr int strip_rows = 4;
constexpr int strip_columns = 64;
constexpr int strip_pixels = strip_rows * strip_columns;

// The part of the output that a strip covers: `count` columns from `column` of `rows` rows from `row`.
struct Span {
  int64_t outer, row, column;
  int rows, count;
};

// Element offset of the first pixel of a span, from the strides of `shape`.
inline int64_t offset_of(const SampleJob& job, const int64_t* stride, const Span& span) {
  int64_t offset = span.column * stride[job.rank - 1];
  if (job.rank >= 2) offset += span.row * stride[job.rank - 2];
  for (int64_t a = job.rank - 3, rest = span.outer; a >= 0; --a) {
    offset += rest % job.shape[a] * stride[a];
    rest /= job.shape[a];
  }
  return offset;
}

inline int64_t column_stride(const SampleJob& job, const int64_t* stride) { return stride[job.rank - 1]; }
inline int64_t row_stride(const SampleJob& job, const int64_t* stride) {
  return job.rank >= 2 ? stride[job.rank - 2] : 0;
}

// Calls body(span) for the strips of one chunk, in order.
template <class Body>
inline void for_each_strip(const SampleJob& job, int64_t chunk, Body&& body) {
  const int64_t column_chunk = chunk % job.column_chunks;
  const int64_t row_chunk = chunk / job.column_chunks % job.row_chunks;
  const int64_t outer = chunk / job.column_chunks / job.row_chunks;
  const int64_t row0 = row_chunk * job.chunk_rows, column0 = column_chunk * job.chunk_columns;
  const int64_t row1 = row0 + job.chunk_rows < job.rows ? row0 + job.chunk_rows : job.rows;
  const int64_t column1 = column0 + job.chunk_columns < job.columns ? column0 + job.chunk_columns : job.columns;
  for (int64_t row = row0; row < row1; row += strip_rows)
    for (int64_t column = column0; column < column1; column += strip_columns) {
      const int rows = int(row1 - row < strip_rows ? row1 - row : strip_rows);
      const int count = int(column1 - column < strip_columns ? column1 - column : strip_columns);
      body(Span{outer, row, column, rows, count});
    }
}

inline int64_t chunks_per_image(const SampleJob& job) { return job.outer * job.row_chunks * job.column_chunks; }

// What the projection of one axis needs.
template <class R>
struct Projection {
  Normalization<R> normalize;
  Axis axis;
  R tolerance;
};

template <class Fold, int stride_or_0, bool with_factor, class G, class R>
inline void project_row(const G* __restrict x, int64_t stride, int count, const Projection<R>& by,
                        R* __restrict p, R* __restrict factor) {
  const int64_t step = stride_or_0 ? stride_or_0 : stride;
  const R origin = R(by.axis.origin);
  for (int i = 0; i < count; ++i) {
    const R given = R(x[i * step]);
    R f;
    const R folded = Fold::fold(by.normalize(given), by.axis.full, by.tolerance, f) - origin;
    const bool finite = is_finite(given);
    p[i] = finite ? folded : outside<R>();
    if (with_factor) factor[i] = finite ? f * by.normalize.scale : R(0);
  }
}

// Positions of a strip in the source window, axis by axis, row r at [r * strip_columns]; and, if
// asked for, d position / d coordinate.
template <class R>
struct Strip {
  alignas(64) R position[max_ndim][strip_pixels];
  alignas(64) R factor[max_ndim][strip_pixels];
};

template <bool with_factor, class G, class R>
inline void project_as(const SampleJob& job, int64_t n, const Span& span, const Projection<R>* by, Strip<R>& strip) {
  const GridArray& grid = job.grid;
  const int64_t stride = column_stride(job, grid.axis), rows = row_stride(job, grid.axis);
  const G* const first = static_cast<const G*>(grid.data) + n * grid.batch + offset_of(job, grid.axis, span);
  for (int a = 0; a < job.ndim; ++a)
    for (int r = 0; r < span.rows; ++r) {
      const G* const x = first + r * rows + a * grid.component;
      R* const p = strip.position[a] + r * strip_columns;
      R* const f = strip.factor[a] + r * strip_columns;
      auto with = [&](auto fold) __attribute__((always_inline)) {
        using Fold = decltype(fold);
        if (stride == 2)
          project_row<Fold, 2, with_factor>(x, 2, span.count, by[a], p, f);
        else
          project_row<Fold, 0, with_factor>(x, stride, span.count, by[a], p, f);
      };
      switch (Boundary(job.boundary[a])) {
        case Boundary::zeros: with(Zeros{}); break;
        case Boundary::border: with(Border{}); break;
        case Boundary::mirror: with(Mirror{}); break;
        case Boundary::symmetric: with(Symmetric{}); break;
      }
    }
}

// One number of a grid, and one of its gradient: coordinate a of column i, row r of a span.
inline int64_t grid_offset(const SampleJob& job, const GridArray& grid, int64_t n, const Span& span, int r, int i,
                           int a) {
  return n * grid.batch + offset_of(job, grid.axis, span) + r * row_stride(job, grid.axis) +
         i * column_stride(job, grid.axis) + a * grid.component;
}

inline double grid_element(const SampleJob& job, const GridArray& grid, int64_t n, const Span& span, int r, int i,
                           int a) {
  const int64_t at = grid_offset(job, grid, n, span, r, i, a);
  return job.grid_type == Float::f32 ? static_cast<const float*>(grid.data)[at]
                                     : static_cast<const double*>(grid.data)[at];
}

template <class R>
inline void set_grid_element(const SampleJob& job, const GridArray& grid, int64_t n, const Span& span, int r, int i,
                             int a, R value) {
  const int64_t at = grid_offset(job, grid, n, span, r, i, a);
  if (job.grid_type == Float::f32)
    static_cast<float*>(grid.data)[at] = float(value);
  else
    static_cast<double*>(grid.data)[at] = double(value);
}

// Projects the strips of one call: set up once per chunk.
template <class R>
struct Projector {
  const SampleJob& job;
  Projection<R> by[max_ndim];

  explicit Projector(const SampleJob& j) : job(j) {
    for (int a = 0; a < job.ndim; ++a)
      by[a] = {Normalization<R>::of(Coordinates(job.coordinates), job.full[a]),
               {job.size[a], job.full[a], job.origin[a]},
               lattice_tolerance<R>(Subgradient(job.subgradient), job.full[a])};
  }

  template <bool with_factor>
  void project(int64_t n, const Span& span, Strip<R>& strip) const {
    if (job.grid_type == Float::f32)
      project_as<with_factor, float>(job, n, span, by, strip);
    else
      project_as<with_factor, double>(job, n, span, by, strip);
  }
};

}  // namespace pystn::PYSTN_LEVEL
