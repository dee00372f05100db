// The lattice of an output under an affine map: grid = A [x, y(, z), 1], and the reduction of a
// grid's gradient to the matrix. One row of the lattice at a time: all but x is constant on it.
#pragma once

#include <string.h>

#include "coordinates.hpp"
#include "job.hpp"

namespace pystn::PYSTN_LEVEL {

constexpr int lattice_segment = 256;  // pixels of a row whose x are computed together
constexpr int lattice_block = 8;      // that are added to sums of their own

#if defined(__GNUC__)
#if defined(__AVX512F__)
typedef double Doubles __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef double Doubles __attribute__((vector_size(32)));
#else
typedef double Doubles __attribute__((vector_size(16)));
#endif
#else
using Doubles = double;
#endif

PYSTN_HD Doubles load_doubles(const double* from) {
  Doubles v;
  memcpy(&v, from, sizeof v);
  return v;
}
PYSTN_HD Doubles load_doubles(const float* from) {
#if defined(__GNUC__)
  typedef float Floats __attribute__((vector_size(sizeof(Doubles) / 2)));
  Floats v;
  memcpy(&v, from, sizeof v);
  return __builtin_convertvector(v, Doubles);
#else
  return *from;
#endif
}

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

// Calls body(row, column, count, x) for the segments of the rows of one chunk, in order. `x` has that of every
// pixel `times` times.
template <class R, int times, class X, class Body>
inline void for_each_segment(const LatticeJob& job, int64_t row_chunk, Body&& body) {
  const int64_t row0 = row_chunk * job.chunk_rows;
  const int64_t row1 = row0 + job.chunk_rows < job.rows ? row0 + job.chunk_rows : job.rows;
  alignas(64) X x[lattice_segment * times];
  for (int64_t column = 0; column < job.size[0]; column += lattice_segment) {
    const int count = int(job.size[0] - column < lattice_segment ? job.size[0] - column : lattice_segment);
    const int padded = (count + lattice_block - 1) / lattice_block * lattice_block;
    for (int i = 0; i < padded; ++i) {
      const R at = lattice<R>(column + i + job.origin[0], job.full[0], job.align_corners);
      for (int k = 0; k < times; ++k) x[i * times + k] = X(at);
    }
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
    for_each_segment<R, 1, R>(job, chunk % job.row_chunks,
                              [&](const LatticeRow<R>& row, int64_t column, int count, const R* x) {
                                const MatrixRow<R> map(theta, ND, ND, row.at);
                                R* const out = grid + row.offset + column * job.grid_axis[0];
                                if (packed)
                                  write<true>(out, x, count, map, job.grid_axis[0], job.grid_component);
                                else
                                  write<false>(out, x, count, map, job.grid_axis[0], job.grid_component);
                              });
  }

  // Sums of g [x, y(, z), 1]^T over a chunk, in double. Those of 8 neighbours on a row are kept apart, as the
  // components lie in memory: so no addition waits for many others, and the order depends on the shape alone.
  struct Sums {
    static constexpr int width = int(sizeof(Doubles) / sizeof(double)), count = lattice_block * ND / width;
    Doubles at[ND + 1][count] = {};

    // `x` has that of every pixel ND times.
    template <bool packed>
    void add_row(const R* __restrict g, const double* __restrict x, int columns, int64_t column, int64_t component,
                 const LatticeRow<R>& row) {
      Doubles total[count] = {}, moment[count] = {};
      const auto add = [&](const R* some, int k) {
        const Doubles value = load_doubles(some);
        total[k] += value;
        moment[k] += value * load_doubles(x + k * width);
      };
      int i = 0;
      for (; packed && i + lattice_block <= columns; i += lattice_block, x += lattice_block * ND)
        for (int k = 0; k < count; ++k) add(g + i * ND + k * width, k);
      for (; i < columns; i += lattice_block, x += lattice_block * ND) {
        const int left = (columns - i) * ND;
        for (int k = 0; k < count && k * width < left; ++k) {
          if (packed && (k + 1) * width <= left) {
            add(g + i * ND + k * width, k);
            continue;
          }
          R some[width];
          for (int l = 0, e = k * width; l < width; ++l, ++e)
            some[l] = e < left ? g[(i + e / ND) * column + e % ND * component] : R(0);
          add(some, k);
        }
      }
      for (int k = 0; k < count; ++k) {
        at[0][k] += moment[k];
        for (int b = 1; b < ND; ++b) at[b][k] += total[k] * double(row.at[b]);
        at[ND][k] += total[k];
      }
    }

    // Of component a and coordinate b.
    double sum(int a, int b) const {
      double apart[lattice_block * ND], sum = 0;
      memcpy(apart, at[b], sizeof apart);
      for (int l = 0; l < lattice_block; ++l) sum += apart[l * ND + a];
      return sum;
    }
  };

  // partial[m, row_chunk] = sum over the chunk of g [x, y(, z), 1]^T
  static void vjp(const LatticeJob& job, int64_t chunk) {
    const int64_t m = chunk / job.row_chunks;
    const R* const grad = static_cast<const R*>(job.grid) + m * job.grid_matrix;
    double* const partial = job.partial + chunk * ND * (ND + 1);
    const bool packed = job.grid_component == 1 && job.grid_axis[0] == ND;
    Sums sums;
    for_each_segment<R, ND, double>(
        job, chunk % job.row_chunks, [&](const LatticeRow<R>& row, int64_t column, int count, const double* x) {
          const R* const g = grad + row.offset + column * job.grid_axis[0];
          if (packed)
            sums.template add_row<true>(g, x, count, ND, 1, row);
          else
            sums.template add_row<false>(g, x, count, job.grid_axis[0], job.grid_component, row);
        });
    for (int a = 0; a < ND; ++a)
      for (int b = 0; b <= ND; ++b) partial[a * (ND + 1) + b] = sums.sum(a, b);
  }
};

}  // namespace pystn::PYSTN_LEVEL
