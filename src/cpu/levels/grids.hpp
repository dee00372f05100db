// The lattice of an output under an affine map: grid = A [x, y(, z), 1], and the reduction of a
// grid's gradient to the matrix. One row of the lattice at a time: all but x is constant on it.
#pragma once

#include "coordinates.hpp"
#include "job.hpp"

namespace pystn::PYSTN_LEVEL {

constexpr int lattice_segment = 256;  // pixels of a row whose x are computed together

// Where a row of the lattice starts, and its normalised coordinates but x.
template <class R>
struct LatticeRow {
  R at[max_ndim];
  int64_t offset;

  LatticeRow(const LatticeJob& job, int64_t row) : offset(0) {
    for (int a = 1; a < job.ndim; ++a) {
      const int64_t j = row % job.size[a];
      row /= job.size[a];
      at[a] = lattice<R>(j + job.origin[a], job.full[a], job.align_corners);
      offset += j * job.grid_axis[a];
    }
  }
};

// Calls body(row, column, count, x) for the segments of the rows of one chunk, in order.
template <class R, class Body>
inline void for_each_segment(const LatticeJob& job, int64_t row_chunk, Body&& body) {
  const int64_t row0 = row_chunk * job.chunk_rows;
  const int64_t row1 = row0 + job.chunk_rows < job.rows ? row0 + job.chunk_rows : job.rows;
  alignas(64) R x[lattice_segment];
  for (int64_t column = 0; column < job.size[0]; column += lattice_segment) {
    const int count = int(job.size[0] - column < lattice_segment ? job.size[0] - column : lattice_segment);
    for (int i = 0; i < count; ++i) x[i] = lattice<R>(column + i + job.origin[0], job.full[0], job.align_corners);
    for (int64_t row = row0; row < row1; ++row) body(LatticeRow<R>(job, row), column, count, x);
  }
}

template <class R, int ND>
struct AffineLattice {
  template <bool packed>
  static void write(R* __restrict out, const R* __restrict x, int count, const MatrixRow<R>& map, int64_t column,
                    int64_t component) {
    const int64_t step = packed ? ND : column, axis = packed ? 1 : component;
    for (int i = 0; i < count; ++i)
      for (int a = 0; a < ND; ++a) out[i * step + a * axis] = map(a, x[i]);
  }

  static void forward(const LatticeJob& job, int64_t chunk) {
    const int64_t m = chunk / job.row_chunks;
    const R* const theta = static_cast<const R*>(job.theta) + m * ND * (ND + 1);
    R* const grid = static_cast<R*>(job.grid) + m * job.grid_matrix;
    const bool packed = job.grid_component == 1 && job.grid_axis[0] == ND;
    for_each_segment<R>(job, chunk % job.row_chunks,
                        [&](const LatticeRow<R>& row, int64_t column, int count, const R* x) {
                          const MatrixRow<R> map(theta, ND, ND, row.at);
                          R* const out = grid + row.offset + column * job.grid_axis[0];
                          if (packed)
                            write<true>(out, x, count, map, job.grid_axis[0], job.grid_component);
                          else
                            write<false>(out, x, count, map, job.grid_axis[0], job.grid_component);
                        });
  }

  // Sums over a row in double, in a fixed number of lanes: the order depends on the shape alone.
  template <bool packed>
  static void reduce(const R* __restrict g, const R* __restrict x, int count, int64_t column, int64_t component,
                     double (&total)[ND], double (&moment)[ND]) {
    constexpr int lanes = 8;
    const int64_t step = packed ? ND : column, axis = packed ? 1 : component;
    double t[ND][lanes] = {}, m[ND][lanes] = {};
    int i = 0;
    for (; i + lanes <= count; i += lanes)
      for (int a = 0; a < ND; ++a)
        for (int l = 0; l < lanes; ++l) {
          const double value = g[(i + l) * step + a * axis];
          t[a][l] += value;
          m[a][l] += value * double(x[i + l]);
        }
    for (int l = 0; i < count; ++i, ++l)
      for (int a = 0; a < ND; ++a) {
        const double value = g[i * step + a * axis];
        t[a][l] += value;
        m[a][l] += value * double(x[i]);
      }
    for (int a = 0; a < ND; ++a)
      for (int l = 0; l < lanes; ++l) {
        total[a] += t[a][l];
        moment[a] += m[a][l];
      }
  }

  // partial[m, row_chunk] = sum over the chunk of g [x, y(, z), 1]^T
  static void vjp(const LatticeJob& job, int64_t chunk) {
    const int64_t m = chunk / job.row_chunks;
    const R* const grad = static_cast<const R*>(job.grid) + m * job.grid_matrix;
    double* const partial = job.partial + chunk * ND * (ND + 1);
    const bool packed = job.grid_component == 1 && job.grid_axis[0] == ND;
    double sum[ND][ND + 1] = {};
    for_each_segment<R>(job, chunk % job.row_chunks,
                        [&](const LatticeRow<R>& row, int64_t column, int count, const R* x) {
                          const R* const g = grad + row.offset + column * job.grid_axis[0];
                          double total[ND] = {}, moment[ND] = {};
                          if (packed)
                            reduce<true>(g, x, count, job.grid_axis[0], job.grid_component, total, moment);
                          else
                            reduce<false>(g, x, count, job.grid_axis[0], job.grid_component, total, moment);
                          for (int a = 0; a < ND; ++a) {
                            sum[a][0] += moment[a];
                            for (int b = 1; b < ND; ++b) sum[a][b] += total[a] * double(row.at[b]);
                            sum[a][ND] += total[a];
                          }
                        });
    for (int a = 0; a < ND; ++a)
      for (int b = 0; b <= ND; ++b) partial[a * (ND + 1) + b] = sum[a][b];
  }
};

}  // namespace pystn::PYSTN_LEVEL
