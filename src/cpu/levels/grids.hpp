// The lattice of an output under an affine or a projective map, and the reduction of a grid's gradient to the matrix.
// One row of the lattice at a time: all but x is constant on it.
#pragma once

#include <math.h>
#include <string.h>

#if defined(__GNUC__) && defined(__AVX__)
#include <immintrin.h>
#endif

#include "coordinates.hpp"
#include "job.hpp"
#include "vectors.hpp"

namespace pystn::PYSTN_LEVEL {

constexpr int lattice_segment = 256;  // pixels of a row whose x are computed together
constexpr int lattice_block = 8;      // that are added to sums of their own

constexpr int whole_blocks(int count) { return (count + lattice_block - 1) / lattice_block * lattice_block; }

using Doubles = Vectors<double>::V;

PYSTN_HD Doubles load_doubles(const double* from) {
  Doubles v;
  memcpy(&v, from, sizeof v);
  return v;
}
PYSTN_HD Doubles load_doubles(const float* from) {
#if defined(__GNUC__) && defined(__AVX512F__)  // compilers make two halves
  return Doubles(_mm512_cvtps_pd(_mm256_loadu_ps(from)));
#elif defined(__GNUC__) && defined(__AVX__)
  return Doubles(_mm256_cvtps_pd(_mm_loadu_ps(from)));
#elif defined(__GNUC__)
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
      const bool outermost = a == job.ndim - 1;  // which saves a division
      const int64_t j = outermost ? row : row % job.size[a];
      if (!outermost) row /= job.size[a];
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
    const double first = double(column + job.origin[0]);
    for (int i = 0; i < whole_blocks(count); ++i) {
      const R at = lattice<R>(first + i, job.full[0], job.align_corners);
      for (int k = 0; k < times; ++k) x[i * times + k] = X(at);
    }
    for (int64_t row = row0; row < row1; ++row) body(LatticeRow<R>(job, row), column, count, x);
  }
}

// grid = A [x, y(, z), 1]
template <class R, int ND>
struct AffineLattice {
  using V = typename Vectors<R>::V;
  static constexpr int lanes = Vectors<R>::lanes;

  static PYSTN_HD V load(const R* from) {
    V v;
    memcpy(&v, from, sizeof v);
    return v;
  }

  // The columns of a matrix, components in lanes as they follow each other in memory, from each component on.
  struct Columns {
    alignas(64) R column[ND + 1][ND][lanes];

    explicit Columns(const R* theta) {
      for (int b = 0; b <= ND; ++b)
        for (int first = 0; first < ND; ++first)
          for (int l = 0; l < lanes; ++l) column[b][first][l] = theta[(first + l) % ND * (ND + 1) + b];
    }
  };

  // A row whose components follow each other, with the arithmetic of MatrixRow. `x` has that of every pixel ND times.
  static void write_packed(R* out, const R* x, int count, const Columns& of, const R* at) {
    V slope[ND], constant[ND];
    for (int first = 0; first < ND; ++first) {
      slope[first] = load(of.column[0][first]);
      constant[first] = load(of.column[ND][first]);
      for (int b = ND - 1; b > 0; --b) constant[first] = load(of.column[b][first]) * at[b] + constant[first];
    }
    const auto put = [&](int e, int first) {
      const V value = slope[first] * load(x + e) + constant[first];
      memcpy(out + e, &value, sizeof value);
    };
    const int end = count * ND;
    int e = 0;
    for (; e + ND * lanes <= end; e += ND * lanes)
      for (int k = 0; k < ND; ++k) put(e + k * lanes, k * lanes % ND);
    for (; e + lanes <= end; e += lanes) put(e, e % ND);
    if (e < end) put(end - lanes, (end - lanes) % ND);  // what overlaps is written again
  }

  static void write(R* __restrict out, const R* __restrict x, int count, const MatrixRow<R>& map, int64_t column,
                    int64_t component) {
    for (int i = 0; i < count; ++i)
      for (int a = 0; a < ND; ++a) out[i * column + a * component] = map(a, x[i * ND]);
  }

  static void forward(const LatticeJob& job, int64_t chunk) {
    const int64_t m = chunk / job.row_chunks;
    const R* const theta = static_cast<const R*>(job.theta) + m * ND * (ND + 1);
    R* const grid = static_cast<R*>(job.grid) + m * job.grid_matrix;
    const bool packed = job.grid_component == 1 && job.grid_axis[0] == ND;
    const Columns columns(theta);
    for_each_segment<R, ND, R>(
        job, chunk % job.row_chunks, [&](const LatticeRow<R>& row, int64_t column, int count, const R* x) {
          R* const out = grid + row.offset + column * job.grid_axis[0];
          if (packed && count * ND >= lanes)
            write_packed(out, x, count, columns, row.at);
          else
            write(out, x, count, MatrixRow<R>(theta, ND, ND, row.at), job.grid_axis[0], job.grid_component);
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
        alignas(64) R some[lattice_block * ND] = {};
        for (int l = 0; l < lattice_block && i + l < columns; ++l)
          for (int a = 0; a < ND; ++a) some[l * ND + a] = g[(i + l) * column + a * component];
        for (int k = 0; k < count; ++k) add(some + k * width, k);
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

// grid = (q_x, q_y) / q_w with q = H [x, y, 1], and its derivatives. What the horizon hides is NaN, its derivatives 0.
template <class R>
struct ProjectiveLattice {
  using Matrix = MatrixRow<R>;
  static constexpr int rows = 3;

  static Matrix row_of(const void* matrices, int64_t m, const LatticeRow<R>& row) {
    return Matrix(static_cast<const R*>(matrices) + m * rows * 3, rows, 2, row.at);
  }
  static Horizon<R> horizon_of(const LatticeJob& job) { return {R(job.least_denominator), job.cull_behind != 0}; }
  static bool is_packed(const LatticeJob& job) { return job.grid_component == 1 && job.grid_axis[0] == 2; }

  using Segment = R[lattice_segment];

  // Either coordinates or, with a tangent of the matrices, which makes `d_map`, that of the coordinates.
  template <bool tangent>
  static void project(const R* __restrict x, int count, const Matrix& map, const Matrix& d_map,
                      const Horizon<R>& horizon, R* __restrict to_x, R* __restrict to_y) {
    for (int i = 0; i < count; ++i) {
      const R q = map(2, x[i]), at_x = map(0, x[i]) / q, at_y = map(1, x[i]) / q;
      const bool hidden = horizon.hides(q);
      if constexpr (tangent) {
        const R d_q = d_map(2, x[i]);
        const R d_x = projected_tangent(at_x, d_map(0, x[i]), d_q, q);
        const R d_y = projected_tangent(at_y, d_map(1, x[i]), d_q, q);
        to_x[i] = hidden ? R(0) : d_x;
        to_y[i] = hidden ? R(0) : d_y;
      } else {
        to_x[i] = hidden ? R(NAN) : at_x;
        to_y[i] = hidden ? R(NAN) : at_y;
      }
    }
  }

  template <bool packed>
  static void join(const Segment (&at)[2], int count, int64_t column, int64_t component, R* __restrict to) {
    const int64_t step = packed ? 2 : column, axis = packed ? 1 : component;
    for (int i = 0; i < count; ++i)
      for (int a = 0; a < 2; ++a) to[i * step + a * axis] = at[a][i];
  }

  template <bool tangent>
  static void forward(const LatticeJob& job, int64_t chunk) {
    const int64_t m = chunk / job.row_chunks;
    R* const grid = static_cast<R*>(job.grid) + m * job.grid_matrix;
    const auto write = is_packed(job) ? join<true> : join<false>;
    for_each_segment<R, 1, R>(
        job, chunk % job.row_chunks, [&](const LatticeRow<R>& row, int64_t column, int count, const R* x) {
          alignas(64) Segment at[2];
          const Matrix map = row_of(job.theta, m, row), d_map = tangent ? row_of(job.d_theta, m, row) : map;
          project<tangent>(x, whole_blocks(count), map, d_map, horizon_of(job), at[0], at[1]);
          write(at, count, job.grid_axis[0], job.grid_component, grid + row.offset + column * job.grid_axis[0]);
        });
  }

  // The cotangents g of the coordinates become those of q; or, with a cotangent of the gradient to the matrices, which
  // makes `d_map`, the gradient of it to q.
  template <bool second>
  static void pull(const R* __restrict g_x, const R* __restrict g_y, const R* __restrict x, int count,
                   const Matrix& map, const Matrix& d_map, const Horizon<R>& horizon, R* __restrict to_x,
                   R* __restrict to_y, R* __restrict to_q) {
    for (int i = 0; i < count; ++i) {
      const R q = map(2, x[i]), part = R(1) / q, share_x = g_x[i] * part, share_y = g_y[i] * part;
      const R at_x = map(0, x[i]) * part, at_y = map(1, x[i]) * part;
      const bool hidden = horizon.hides(q);
      R of_x = share_x, of_y = share_y, of_q = pulled_to_q(share_x, share_y, at_x, at_y);
      if constexpr (second) {
        const R rate = d_map(2, x[i]) * part;
        of_q = tangent_pulled_to_q(share_x, at_x, d_map(0, x[i]) * part, rate) +
               tangent_pulled_to_q(share_y, at_y, d_map(1, x[i]) * part, rate);
        of_x = -rate * share_x;
        of_y = -rate * share_y;
      }
      to_x[i] = hidden ? R(0) : of_x;
      to_y[i] = hidden ? R(0) : of_y;
      to_q[i] = hidden ? R(0) : of_q;
    }
  }

  // Sums of cotangents times [x, y, 1]^T over a chunk, in double: those of 8 neighbours on a row are kept apart.
  struct Sums {
    static constexpr int width = int(sizeof(Doubles) / sizeof(double)), count = lattice_block / width;
    Doubles at[rows][3][count] = {};

    // Past `columns` there are zeros up to a multiple of 8.
    void add_row(const Segment (&through)[rows], const R* __restrict x, int columns, double y) {
      Doubles total[rows][count] = {}, moment[rows][count] = {};
      for (int i = 0; i < columns; i += lattice_block)
        for (int k = 0; k < count; ++k) {
          const Doubles along = load_doubles(x + i + k * width);
          for (int r = 0; r < rows; ++r) {
            const Doubles value = load_doubles(through[r] + i + k * width);
            total[r][k] += value;
            moment[r][k] += value * along;
          }
        }
      for (int r = 0; r < rows; ++r)
        for (int k = 0; k < count; ++k) {
          at[r][0][k] += moment[r][k];
          at[r][1][k] += total[r][k] * y;
          at[r][2][k] += total[r][k];
        }
    }

    double sum(int r, int b) const {
      double apart[lattice_block], sum = 0;
      memcpy(apart, at[r][b], sizeof apart);
      for (int l = 0; l < lattice_block; ++l) sum += apart[l];
      return sum;
    }
  };

  template <bool packed>
  static void split(const R* __restrict from, int count, int64_t column, int64_t component, Segment (&g)[2]) {
    const int64_t step = packed ? 2 : column, axis = packed ? 1 : component;
    for (int i = 0; i < count; ++i)
      for (int a = 0; a < 2; ++a) g[a][i] = from[i * step + a * axis];
  }

  // partial[m, row_chunk]: the gradient to a matrix; or, with a cotangent of that, the gradient of it to the matrix.
  template <bool second>
  static void vjp(const LatticeJob& job, int64_t chunk) {
    const int64_t m = chunk / job.row_chunks;
    const R* const grad = static_cast<const R*>(job.grid) + m * job.grid_matrix;
    const auto read = is_packed(job) ? split<true> : split<false>;
    Sums sums;
    for_each_segment<R, 1, R>(
        job, chunk % job.row_chunks, [&](const LatticeRow<R>& row, int64_t column, int count, const R* x) {
          alignas(64) Segment g[2], through[rows];
          read(grad + row.offset + column * job.grid_axis[0], count, job.grid_axis[0], job.grid_component, g);
          const Matrix map = row_of(job.theta, m, row), d_map = second ? row_of(job.d_theta, m, row) : map;
          for (int i = count; i < whole_blocks(count); ++i) g[0][i] = g[1][i] = R(0);
          pull<second>(g[0], g[1], x, whole_blocks(count), map, d_map, horizon_of(job), through[0], through[1],
                       through[2]);
          for (int r = 0; r < rows; ++r)
            for (int i = count; i < whole_blocks(count); ++i) through[r][i] = R(0);
          sums.add_row(through, x, count, double(row.at[1]));
        });
    double* const to = job.partial + chunk * rows * 3;
    for (int r = 0; r < rows; ++r)
      for (int b = 0; b < 3; ++b) to[r * 3 + b] = sums.sum(r, b);
  }
};

}  // namespace pystn::PYSTN_LEVEL
