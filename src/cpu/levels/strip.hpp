// A strip: up to 4 x 64 output pixels, walked together; and a run: up to 64 of one of its rows. Their coordinates, and
// where the gradients to these go.
#pragma once

#include <type_traits>

#include "axis_table.hpp"
#include "coordinates.hpp"
#include "job.hpp"
#include "matrix_source.hpp"

namespace pystn::PYSTN_LEVEL {

// Whether pixels go on in the next row as in theirs: where samples are written, where coordinates are stored, and their
// tangents.
inline bool follows(const SampleJob& job, const int64_t* stride) {
  return row_stride(job, stride) == job.columns * column_stride(job, stride);
}
inline bool is_flat(const SampleJob& job) {
  return is_stored(job) && job.column_chunks == 1 && !job.streams && follows(job, job.grid.axis) &&
         (!job.d_grid.data || follows(job, job.d_grid.axis)) && follows(job, job.output.axis);
}

// As for_each_strip, but as many pixels of one row, or of several as if they were one: processors foresee that better
// than some short ones.
template <class Body>
inline void for_each_long_strip(const SampleJob& job, int64_t chunk, Body&& body) {
  if (job.columns < strip_pixels && is_flat(job))
    for_each_block(job, chunk, job.chunk_rows, job.columns, [&](const Span& rows) {
      const int64_t pixels = int64_t(rows.rows) * rows.count;
      for (int64_t i = 0; i < pixels; i += strip_pixels)
        body(Span{rows.outer, rows.row, i, 1, int(pixels - i < strip_pixels ? pixels - i : strip_pixels)});
    });
  else if (job.columns > strip_columns)
    for_each_block(job, chunk, 1, strip_pixels, body);
  else
    for_each_strip(job, chunk, body);
}

template <int step_or_0, class G, class R>
inline void load_row(const G* __restrict x, int64_t stride, int count, R* __restrict to) {
  const int64_t step = step_or_0 ? step_or_0 : stride;
  for (int i = 0; i < count; ++i) to[i] = R(x[i * step]);
}

template <class G, class R>
inline void load_pairs(const G* __restrict from, int count, R* __restrict x, R* __restrict y) {
  for (int i = 0; i < count; ++i) {
    x[i] = R(from[2 * i]);
    y[i] = R(from[2 * i + 1]);
  }
}

template <class R>
PYSTN_APART void load_stored(const SampleJob& job, const GridArray& grid, int64_t n, const Span& span, int a, R* to) {
  const int64_t stride = column_stride(job, grid.axis);
  const int64_t at = n * grid.batch + offset_of(job, grid.axis, span) + a * grid.component;
  if (job.grid_type == Element::f32) {
    const float* const x = static_cast<const float*>(grid.data) + at;
    stride == 2 ? load_row<2>(x, stride, span.count, to) : load_row<0>(x, stride, span.count, to);
  } else {
    const double* const x = static_cast<const double*>(grid.data) + at;
    stride == 2 ? load_row<2>(x, stride, span.count, to) : load_row<0>(x, stride, span.count, to);
  }
}

// Coordinates of a run on one axis.
template <class R>
inline void load_coordinates(const SampleJob& job, int64_t n, const Span& span, int a, R* to) {
  is_stored(job) ? load_stored(job, job.grid, n, span, a, to) : make_coordinates(job, n, span, a, to);
}

// Whether coordinates of a type are stored in pairs next to each other.
inline bool has_pairs_of(const SampleJob& job, Element type) {
  return job.ndim == 2 && is_stored(job) && job.grid_type == type && job.grid.component == 1 &&
         column_stride(job, job.grid.axis) == 2;
}

// Asks for what follows the rows of a strip, of so many numbers each: processors forget how coordinates are read while
// pixels are.
template <class G>
inline void prefetch_next(const G* from, int rows, int64_t row, int count) {
  const uintptr_t bytes = uintptr_t(count) * sizeof(G), first = reinterpret_cast<uintptr_t>(from) + bytes;
  for (int r = 0; r < rows; ++r)
    for (uintptr_t at = 0; at < bytes; at += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(first + uintptr_t(r * row) * sizeof(G) + at));
}

// Those of the rows of a strip, `width` from one to the next: on all axes, and the last of a row again up to there.
template <class R, int ND, int capacity>
PYSTN_APART void load_strip(const SampleJob& job, int64_t n, const Span& strip, int width, R (&to)[ND][capacity]) {
  const bool pairs = ND == 2 && has_pairs_of(job, job.grid_type);
  const auto load_rows = [&](const auto* grid) {
    const auto* from = grid + n * job.grid.batch + offset_of(job, job.grid.axis, strip);
    prefetch_next(from, strip.rows, row_stride(job, job.grid.axis), 2 * strip.count);
    for (int r = 0; r < strip.rows; ++r, from += row_stride(job, job.grid.axis))
      load_pairs(from, strip.count, to[0] + r * width, to[ND - 1] + r * width);
  };
  if (pairs) {
    job.grid_type == Element::f32 ? load_rows(static_cast<const float*>(job.grid.data))
                                  : load_rows(static_cast<const double*>(job.grid.data));
  } else if (is_stored(job)) {
    for (int a = 0; a < ND; ++a)
      for (int r = 0; r < strip.rows; ++r)
        load_stored(job, job.grid, n, Span{strip.outer, strip.row + r, strip.column, 1, strip.count}, a,
                    to[a] + r * width);
  } else {
    make_strip(job, n, strip, width, to);
  }
  for (int a = 0; strip.count < width && a < ND; ++a)
    for (int r = 0; r < strip.rows; ++r)
      for (int i = strip.count; i < width; ++i) to[a][r * width + i] = to[a][r * width + strip.count - 1];
}

// Their tangents.
template <class R>
inline void load_tangents(const SampleJob& job, int64_t n, const Span& span, int a, R* to) {
  if (is_stored(job)) return load_stored(job, job.d_grid, n, span, a, to);
  if constexpr (std::is_same<R, float>::value)
    if (has_wide_positions(job)) {
      alignas(64) double wide[strip_columns];
      make_tangents(job, n, span, a, wide);
      for (int i = 0; i < span.count; ++i) to[i] = R(wide[i]);
      return;
    }
  make_tangents(job, n, span, a, to);
}

template <class G, class R>
inline void store_row(G* __restrict x, int64_t step, int count, const R* __restrict from) {
  for (int i = 0; i < count; ++i) x[i * step] = G(from[i]);
}

// Writes what load_stored reads.
template <class R>
PYSTN_APART void store_coordinates(const SampleJob& job, const GridArray& grid, int64_t n, const Span& span, int a,
                                   const R* from) {
  const int64_t stride = column_stride(job, grid.axis);
  const int64_t at = n * grid.batch + offset_of(job, grid.axis, span) + a * grid.component;
  if (job.grid_type == Element::f32)
    store_row(static_cast<float*>(grid.data) + at, stride, span.count, from);
  else
    store_row(static_cast<double*>(grid.data) + at, stride, span.count, from);
}

// Pixels of a run, so that the tables hold their taps.
inline int run_columns(const SampleJob& job) {
  int most = 1;
  for (int a = 0; a < job.ndim; ++a) most = job.kernel[a].taps > most ? job.kernel[a].taps : most;
  return table_columns(most);
}

// Calls body(span of one row) for the runs of a strip, in order.
template <class Body>
inline void for_each_run(const SampleJob& job, const Span& strip, Body&& body) {
  const int columns = run_columns(job);
  for (int r = 0; r < strip.rows; ++r)
    for (int i = 0; i < strip.count; i += columns) {
      const int count = strip.count - i < columns ? strip.count - i : columns;
      body(Span{strip.outer, strip.row + r, strip.column + i, 1, count});
    }
}

// One number of a grid, and one of its gradient: coordinate a of column i of a run.
inline int64_t grid_offset(const SampleJob& job, const GridArray& grid, int64_t n, const Span& span, int i, int a) {
  return n * grid.batch + offset_of(job, grid.axis, span) + i * column_stride(job, grid.axis) + a * grid.component;
}

inline double grid_element(const SampleJob& job, const GridArray& grid, int64_t n, const Span& span, int i, int a) {
  const int64_t at = grid_offset(job, grid, n, span, i, a);
  return job.grid_type == Element::f32 ? static_cast<const float*>(grid.data)[at]
                                       : static_cast<const double*>(grid.data)[at];
}

}  // namespace pystn::PYSTN_LEVEL
