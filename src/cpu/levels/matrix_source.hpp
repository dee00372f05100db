// Coordinates made from a matrix on the fly, their tangents, and the way back of their gradient to
// the matrix. A row of the lattice at a time; nothing of the grid's size is kept.
#pragma once

#include <type_traits>

#include "coordinates.hpp"
#include "span.hpp"
#include "vectors.hpp"

namespace pystn::PYSTN_LEVEL {

// Whether positions are computed in float64: from coordinates of float64, or in an image of it.
inline bool has_wide_positions(const SampleJob& job) { return !job.single || job.grid_type == Element::f64; }

inline bool is_stored(const SampleJob& job) { return Source(job.source.kind) == Source::stored; }
inline bool is_projective(const SampleJob& job) { return Source(job.source.kind) == Source::projective; }
inline int matrix_rows(const SampleJob& job) { return job.ndim + is_projective(job); }
template <class R>
inline Horizon<R> horizon_of(const SampleJob& job) {
  return {R(job.source.least_denominator), job.source.cull_behind != 0};
}

// Whether a job moves its coordinates along a tangent.
inline bool has_steps(const SampleJob& job) { return is_stored(job) ? job.d_grid.data : job.source.d_theta; }

// The row of a lattice that a span of one row lies on.
template <class R>
struct LatticeSpan {
  R at[max_ndim] = {};  // target coordinates, x first; that of x is not set
  int64_t matrix;       // offset of the matrix among all

  LatticeSpan(const SampleJob& job, int64_t n, const Span& span) {
    const Coordinates convention = Coordinates(job.coordinates);
    matrix = span.outer;
    if (job.ndim >= 2) at[1] = target_coordinate<R>(convention, span.row, job.source.size[1]);
    if (job.ndim == 3) {
      at[2] = target_coordinate<R>(convention, matrix % job.source.size[2], job.source.size[2]);
      matrix /= job.source.size[2];
    }
    matrix = (matrix + n * job.source.batch) * matrix_rows(job) * (job.ndim + 1);
  }

  MatrixRow<R> under(const SampleJob& job, const double* matrices) const {
    return MatrixRow<R>(matrices + matrix, matrix_rows(job), job.ndim, at);
  }
};

// Target coordinates on x of the pixels of a span.
template <class R>
inline void target_columns(const SampleJob& job, int64_t column, int64_t count, R* __restrict to) {
  if (job.source.columns && has_wide_positions(job) == std::is_same<R, double>::value) {
    const R* const columns = static_cast<const R*>(job.source.columns) + column;
    for (int64_t i = 0; i < count; ++i) to[i] = columns[i];
    return;
  }
  const Coordinates convention = Coordinates(job.coordinates);
  for (int64_t i = 0; i < count; ++i) to[i] = target_coordinate<R>(convention, column + i, job.source.size[0]);
}

// Source coordinates of a run on axis a. What the horizon hides is infinite.
template <class R>
PYSTN_APART void make_coordinates(const SampleJob& job, int64_t n, const Span& span, int a, R* __restrict to) {
  const MatrixRow<R> row = LatticeSpan<R>(job, n, span).under(job, job.source.theta);
  target_columns(job, span.column, span.count, to);
  if (!is_projective(job)) {
    for (int i = 0; i < span.count; ++i) to[i] = row(a, to[i]);
    return;
  }
  const Horizon<R> horizon = horizon_of<R>(job);
  for (int i = 0; i < span.count; ++i) to[i] = horizon.project(row(a, to[i]), row(2, to[i]));
}

// Those of the rows of a strip, `width` from one to the next, on all axes.
template <class R, int ND, int capacity>
PYSTN_APART void make_strip(const SampleJob& job, int64_t n, const Span& strip, int width, R (&to)[ND][capacity]) {
  alignas(64) R x[capacity], q[capacity];
  const int count = strip.count;
  const Horizon<R> horizon = horizon_of<R>(job);
  target_columns(job, strip.column, count, x);
  for (int r = 0; r < strip.rows; ++r) {
    const LatticeSpan<R> lattice(job, n, Span{strip.outer, strip.row + r, strip.column, 1, count});
    const MatrixRow<R> row = lattice.under(job, job.source.theta);
    for (int a = 0; a < ND; ++a) {
      R* __restrict const at = to[a] + r * width;
      for (int i = 0; i < count; ++i) at[i] = row(a, x[i]);
    }
    if (!is_projective(job)) continue;
    for (int i = 0; i < count; ++i) q[i] = row(2, x[i]);
    for (int a = 0; a < ND; ++a) {
      R* __restrict const at = to[a] + r * width;
      for (int i = 0; i < count; ++i) at[i] = horizon.project(at[i], q[i]);
    }
  }
}

// Their tangent along that of the matrix.
template <class R>
PYSTN_APART void make_tangents(const SampleJob& job, int64_t n, const Span& span, int a, R* __restrict to) {
  const LatticeSpan<R> lattice(job, n, span);
  const MatrixRow<R> d_row = lattice.under(job, job.source.d_theta);
  target_columns(job, span.column, span.count, to);
  if (!is_projective(job)) {
    for (int i = 0; i < span.count; ++i) to[i] = d_row(a, to[i]);
    return;
  }
  const MatrixRow<R> row = lattice.under(job, job.source.theta);
  const Horizon<R> horizon = horizon_of<R>(job);
  for (int i = 0; i < span.count; ++i) {
    const R q = row(2, to[i]), at = horizon.project(row(a, to[i]), q);
    const R step = projected_tangent(at, d_row(a, to[i]), d_row(2, to[i]), q);
    to[i] = is_finite(at) ? step : R(0);
  }
}

// The group of sums that a chunk adds to.
inline double* sums_of(const SampleJob& job, int64_t chunk) {
  const MatrixSource& source = job.source;
  const int64_t groups = (source.chunks_per_matrix + source.chunks_per_group - 1) / source.chunks_per_group;
  const int64_t group =
      chunk / source.chunks_per_matrix * groups + chunk % source.chunks_per_matrix / source.chunks_per_group;
  return source.partial + group * matrix_rows(job) * (job.ndim + 1);
}

// Adds the gradient g[a][i] to the coordinates of a run to its sums: matrix += g (x, y, z, 1), in
// double, in an order that depends on the shapes alone.
template <class R, int ND, int columns>
PYSTN_APART void add_to_matrix(const SampleJob& job, int64_t n, int64_t chunk, const Span& span,
                               const R (&g)[ND][columns]) {
  if constexpr (std::is_same<R, float>::value)
    if (has_wide_positions(job)) {
      alignas(64) double wide[ND][columns];
      for (int a = 0; a < ND; ++a)
        for (int i = 0; i < span.count; ++i) wide[a][i] = g[a][i];
      return add_to_matrix(job, n, chunk, span, wide);
    }
  constexpr int lanes = 8, width = Vectors<double>::lanes, parts = lanes / width;
  alignas(64) R x[columns], through[3][columns];
  const LatticeSpan<R> lattice(job, n, span);
  target_columns(job, span.column, span.count, x);
  const int rows = matrix_rows(job), padded = (span.count + lanes - 1) / lanes * lanes;
  for (int a = 0; a < ND; ++a)
    for (int i = 0; i < span.count; ++i) through[a][i] = g[a][i];
  if constexpr (ND == 2) {
    if (is_projective(job)) {
      const MatrixRow<R> row = lattice.under(job, job.source.theta);
      const Horizon<R> horizon = horizon_of<R>(job);
      for (int i = 0; i < span.count; ++i) {
        const R q = row(2, x[i]);
        const R at[2] = {horizon.project(row(0, x[i]), q), horizon.project(row(1, x[i]), q)};
        const bool lost = !is_finite(at[0]) || !is_finite(at[1]);
        const R gx = g[0][i] / q, gy = g[1][i] / q;
        through[0][i] = lost ? R(0) : gx;
        through[1][i] = lost ? R(0) : gy;
        through[2][i] = lost ? R(0) : pulled_to_q(gx, gy, at[0], at[1]);
      }
    }
  }
  double* to = sums_of(job, chunk);
  for (int r = 0; r < rows; ++r, to += ND + 1) {
    Doubles totals[parts] = {}, moments[parts] = {};
    for (int i = span.count; i < padded; ++i) through[r][i] = x[i] = R(0);
    for (int i = 0; i < padded; i += lanes)
      for (int k = 0; k < parts; ++k) {
        const Doubles value = load_doubles(through[r] + i + k * width);
        totals[k] += value;
        moments[k] += value * load_doubles(x + i + k * width);
      }
    double of_lane[2][lanes], total = 0, moment = 0;
    memcpy(of_lane[0], totals, sizeof totals);
    memcpy(of_lane[1], moments, sizeof moments);
    for (int l = 0; l < lanes; ++l) {
      total += of_lane[0][l];
      moment += of_lane[1][l];
    }
    to[0] += moment;
    for (int b = 1; b < ND; ++b) to[b] += total * double(lattice.at[b]);
    to[ND] += total;
  }
}

}  // namespace pystn::PYSTN_LEVEL
