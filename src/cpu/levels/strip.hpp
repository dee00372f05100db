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
inline __attribute__((always_inline)) int64_t offset_of(const SampleJob& job, const int64_t* stride, const Span& span) {
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

// Calls body(span) for the blocks of height x width output pixels of one chunk, in order.
template <int height, int width, class Body>
inline __attribute__((always_inline)) void for_each_block(const SampleJob& job, int64_t chunk, Body&& body) {
  const int64_t column_chunk = chunk % job.column_chunks;
  const int64_t row_chunk = chunk / job.column_chunks % job.row_chunks;
  const int64_t outer = chunk / job.column_chunks / job.row_chunks;
  const int64_t row0 = row_chunk * job.chunk_rows, column0 = column_chunk * job.chunk_columns;
  const int64_t row1 = row0 + job.chunk_rows < job.rows ? row0 + job.chunk_rows : job.rows;
  const int64_t column1 = column0 + job.chunk_columns < job.columns ? column0 + job.chunk_columns : job.columns;
  for (int64_t row = row0; row < row1; row += height)
    for (int64_t column = column0; column < column1; column += width) {
      const int rows = int(row1 - row < height ? row1 - row : height);
      const int count = int(column1 - column < width ? column1 - column : width);
      body(Span{outer, row, column, rows, count});
    }
}

template <class Body>
inline void for_each_strip(const SampleJob& job, int64_t chunk, Body&& body) {
  for_each_block<strip_rows, strip_columns>(job, chunk, body);
}

inline int64_t chunks_per_image(const SampleJob& job) { return job.outer * job.row_chunks * job.column_chunks; }

// From a stored coordinate to a position in the source window: one axis, one boundary.
template <class R, template <class> class Fold>
struct Projection {
  Normalization<R> normalize;
  Fold<R> fold;
  R origin;

  Projection(const SampleJob& job, int a)
      : normalize(Normalization<R>::of(Coordinates(job.coordinates), job.full[a])),
        fold(job.full[a], lattice_tolerance<R>(Subgradient(job.subgradient), job.full[a])),
        origin(R(job.origin[a])) {}

  // Also d position / d coordinate.
  PYSTN_HD R operator()(R x, R& factor) const {
    const bool reads = Fold<R>::takes_any || is_finite(x);
    R f;
    const R p = fold(normalize(x), f) - origin;
    factor = reads ? f * normalize.scale : R(0);
    return reads ? p : outside<R>();
  }
};

template <int step_or_0, class Projection, class G, class R>
inline void project_row(const G* __restrict x, int64_t stride, int count, const Projection& by, R* __restrict p,
                        R* __restrict factor) {
  const int64_t step = step_or_0 ? step_or_0 : stride;
  if (factor)
    for (int i = 0; i < count; ++i) p[i] = by(R(x[i * step]), factor[i]);
  else
    for (int i = 0; i < count; ++i) {
      R unused;
      p[i] = by(R(x[i * step]), unused);
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
inline void project_as(const SampleJob& job, int64_t n, const Span& span, Strip<R>& strip) {
  const GridArray& grid = job.grid;
  const int64_t stride = column_stride(job, grid.axis), rows = row_stride(job, grid.axis);
  const G* const first = static_cast<const G*>(grid.data) + n * grid.batch + offset_of(job, grid.axis, span);
  for (int a = 0; a < job.ndim; ++a) {
    const auto with = [&](const auto& projection) {
      for (int r = 0; r < span.rows; ++r) {
        const G* const x = first + r * rows + a * grid.component;
        R* const p = strip.position[a] + r * strip_columns;
        R* const f = with_factor ? strip.factor[a] + r * strip_columns : nullptr;
        if (stride == 2)
          project_row<2>(x, 2, span.count, projection, p, f);
        else
          project_row<0>(x, stride, span.count, projection, p, f);
      }
    };
    switch (Boundary(job.boundary[a])) {
      case Boundary::zeros:
        with(Projection<R, Zeros>(job, a));
        break;
      case Boundary::border:
        with(Projection<R, Border>(job, a));
        break;
      case Boundary::mirror:
        with(Projection<R, Mirror>(job, a));
        break;
      case Boundary::symmetric:
        with(Projection<R, Symmetric>(job, a));
        break;
    }
  }
}

template <bool with_factor, class R>
inline void project(const SampleJob& job, int64_t n, const Span& span, Strip<R>& strip) {
  if (job.grid_type == Float::f32)
    project_as<with_factor, float>(job, n, span, strip);
  else
    project_as<with_factor, double>(job, n, span, strip);
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

// Strips of a chunk, at most; the size of its part of the table of reaches.
inline int64_t strips_per_chunk(const SampleJob& job) {
  return ((job.chunk_rows + strip_rows - 1) / strip_rows) * ((job.chunk_columns + strip_columns - 1) / strip_columns);
}

inline Reach* reaches_of(const SampleJob& job, int64_t n, int64_t chunk) {
  const int64_t image = job.grid_batch == 1 ? 0 : n;
  return job.reach + (image * chunks_per_image(job) + chunk) * strips_per_chunk(job);
}

template <class R>
inline void find_reach(const SampleJob& job, int64_t chunk) {
  const int64_t n = chunk / chunks_per_image(job), of_image = chunk % chunks_per_image(job);
  Reach* reach = reaches_of(job, n, of_image);
  Strip<R> strip;
  for_each_strip(job, of_image, [&](const Span& span) {
    project<false>(job, n, span, strip);
    const R* const position = strip.position[job.ndim - 1];
    R low = position[0], high = position[0];
    for (int r = 0; r < span.rows; ++r)
      for (int i = 0; i < span.count; ++i) {
        const R p = position[r * strip_columns + i];
        low = p < low ? p : low;
        high = p > high ? p : high;
      }
    *reach++ = {int64_t(floor_of(low)), int64_t(floor_of(high)) + 2};
  });
}

}  // namespace pystn::PYSTN_LEVEL
