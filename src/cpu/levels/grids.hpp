// The lattice of an output under an affine or a projective map, and the reduction of a grid's gradient to the matrix.
// One row of the lattice at a time: all but x is constant on it.
#pragma once

#include <math.h>
#include <string.h>

#include "coordinates.hpp"
#include "job.hpp"
#include "vectors.hpp"

namespace pystn::PYSTN_LEVEL {

// Pixels of a row whose x are computed together; of rows that are read from end to end, as processors foresee these;
// and of those whose x, as doubles of every component, the nearest cache holds.
constexpr int lattice_segment = 256, long_segment = 4096, near_segment = 1024;
constexpr int ahead = 1024;  // bytes from what is read to what is asked for

constexpr int whole_blocks(int count) { return (count + lattice_block - 1) / lattice_block * lattice_block; }

// Sets `to` to the normalised coordinates of all pixels on all axes in turn.
template <class R>
inline void set_coordinates(const LatticeJob& job, R* __restrict to) {
  for (int a = 0; a < job.ndim; to += job.size[a], ++a) {
    const double first = double(job.origin[a]);
    for (int64_t i = 0; i < job.size[a]; ++i) to[i] = lattice<R>(first + double(i), job.full[a], job.align_corners);
  }
}

// Where a row of the lattice starts, and its normalised coordinates but x.
template <class R, int ND>
struct LatticeRow {
  R at[ND];
  int64_t offset;

  LatticeRow(const LatticeJob& job, int64_t row) : offset(0) {
    const R* known = static_cast<const R*>(job.coordinates);
    for (int a = 1; a < ND; ++a) {
      const bool outermost = a == ND - 1;  // which saves a division
      const int64_t j = outermost ? row : row % job.size[a];
      if (!outermost) row /= job.size[a];
      if (known) known += job.size[a - 1];
      at[a] = known ? known[j] : lattice<R>(j + job.origin[a], job.full[a], job.align_corners);
      offset += j * job.grid_axis[a];
    }
  }
};

inline int64_t first_row(const LatticeJob& job, int64_t row_chunk) { return row_chunk * job.chunk_rows; }
inline int64_t end_row(const LatticeJob& job, int64_t row_chunk) {
  const int64_t end = first_row(job, row_chunk) + job.chunk_rows;
  return end < job.rows ? end : job.rows;
}

// Sets x to that of every pixel of a segment from a column on, `times` times; returns how many pixels there are. More
// of them are set, up to a whole block.
template <class R, int times, int most, class X>
inline int set_segment(const LatticeJob& job, int64_t column, X* __restrict x) {
  const int count = int(job.size[0] - column < most ? job.size[0] - column : most);
  const R* const known = static_cast<const R*>(job.coordinates);
  const double first = double(column + job.origin[0]);
  const auto set = [&](auto&& at) {
    for (int i = 0; i < whole_blocks(count); ++i)
      for (int k = 0; k < times; ++k) x[i * times + k] = X(at(i));
  };
  if (known)
    set([&](int i) { return known[column + i]; });
  else
    set([&](int i) { return lattice<R>(first + i, job.full[0], job.align_corners); });
  return count;
}

// Calls body(row, column, count, x) for the segments of the rows of one chunk, in order.
template <class R, int ND, class Body>
inline void for_each_segment(const LatticeJob& job, int64_t row_chunk, Body&& body) {
  alignas(64) R x[lattice_segment];
  for (int64_t column = 0; column < job.size[0]; column += lattice_segment) {
    const int count = set_segment<R, 1, lattice_segment>(job, column, x);
    for (int64_t row = first_row(job, row_chunk); row < end_row(job, row_chunk); ++row)
      body(LatticeRow<R, ND>(job, row), column, count, x);
  }
}

// grid = A [x, y(, z), 1]
template <class R, int ND>
struct AffineLattice {
  using V = typename Vectors<R>::V;
  static constexpr int lanes = Vectors<R>::lanes;
  static constexpr int starts = lanes % ND ? ND : 1;  // components that vectors begin with

  static PYSTN_HD V load(const R* from) {
    V v;
    memcpy(&v, from, sizeof v);
    return v;
  }

  // The columns of a matrix, components in lanes as they follow each other in memory, from each of these on.
  struct Columns {
    alignas(64) R column[ND + 1][starts][lanes];

    explicit Columns(const R* theta) {
      for (int b = 0; b <= ND; ++b)
        for (int first = 0; first < starts; ++first)
          for (int l = 0; l < lanes; ++l) column[b][first][l] = theta[(first + l) % ND * (ND + 1) + b];
    }
  };

  // The rows of a chunk whose components follow each other, with the arithmetic of MatrixRow.
  static PYSTN_APART void write_packed(const LatticeJob& given, const R* theta, R* grid, int64_t row_chunk) {
    const LatticeJob job = given;  // of which, unlike of the original, it is clear that nothing is written into it
    const Columns columns(theta);
    V column[ND + 1][starts];
    for (int b = 0; b <= ND; ++b)
      for (int first = 0; first < starts; ++first) column[b][first] = load(columns.column[b][first]);
    alignas(64) R x[lattice_segment * ND];
    for (int64_t start = 0; start < job.size[0]; start += lattice_segment) {
      const int end = ND * set_segment<R, ND, lattice_segment>(job, start, x);
      for (int64_t row = first_row(job, row_chunk); row < end_row(job, row_chunk); ++row) {
        const LatticeRow<R, ND> at(job, row);
        R* const out = grid + at.offset + start * ND;
        V constant[starts];
        for (int first = 0; first < starts; ++first) {
          constant[first] = column[ND][first];
          for (int b = ND - 1; b > 0; --b) constant[first] = column[b][first] * at.at[b] + constant[first];
        }
        const auto put = [&](int e, int first) {
          const V value = column[0][first] * load(x + e) + constant[first];
          memcpy(out + e, &value, sizeof value);
        };
        if (end < lanes) {
          write(job, MatrixRow<R>(theta, ND, ND, at.at), x, end / ND, out);
          continue;
        }
        int e = 0;
        for (; e + ND * lanes <= end; e += ND * lanes)
          for (int k = 0; k < ND; ++k) put(e + k * lanes, k * lanes % starts);
        for (; e + lanes <= end; e += lanes) put(e, e % starts);
        if (e < end) put(end - lanes, (end - lanes) % starts);  // what overlaps is written again
      }
    }
  }

  // `x` has that of every pixel `times` times.
  template <int times = ND>
  static void write(const LatticeJob& job, const MatrixRow<R>& map, const R* __restrict x, int count,
                    R* __restrict out) {
    for (int i = 0; i < count; ++i)
      for (int a = 0; a < ND; ++a) out[i * job.grid_axis[0] + a * job.grid_component] = map(a, x[i * times]);
  }

  static void forward(const LatticeJob& job, int64_t chunk) {
    const int64_t m = chunk / job.row_chunks;
    const R* const theta = static_cast<const R*>(job.theta) + m * ND * (ND + 1);
    R* const grid = static_cast<R*>(job.grid) + m * job.grid_matrix;
    if (is_packed(job)) return write_packed(job, theta, grid, chunk % job.row_chunks);
    for_each_segment<R, ND>(
        job, chunk % job.row_chunks, [&](const LatticeRow<R, ND>& row, int64_t column, int count, const R* x) {
          write<1>(job, MatrixRow<R>(theta, ND, ND, row.at), x, count, grid + row.offset + column * job.grid_axis[0]);
        });
  }
  static bool is_packed(const LatticeJob& job) { return job.grid_component == 1 && job.grid_axis[0] == ND; }

  // Sums of g [x, y(, z), 1]^T over a chunk, in double. Those of 8 neighbours on a row are kept apart, as the
  // components lie in memory: so no addition waits for many others, and the order depends on the shape alone.
  struct Sums {
    static constexpr int width = int(sizeof(Doubles) / sizeof(double)), count = lattice_block * ND / width;
    Doubles at[ND + 1][count] = {};

    // Zeros, then ones: from where so many numbers are ones to the end of a block.
    struct LastOnes {
      double one[2 * lattice_block * ND];
      constexpr LastOnes() : one() {
        for (int e = lattice_block * ND; e < 2 * lattice_block * ND; ++e) one[e] = 1;
      }
    };

    void add(const LatticeJob& job, const R* grad, int64_t row_chunk) {
      alignas(64) double x[long_segment * ND];
      Doubles moment[count] = {};
      for (int64_t column = 0; column < job.size[0]; column += long_segment) {
        const int columns = set_segment<R, ND, long_segment>(job, column, x);
        int64_t row = first_row(job, row_chunk);
        if constexpr (ND <= 2)  // of more the sums do not stay in registers
          if (columns > near_segment)
            for (; row + 2 <= end_row(job, row_chunk); row += 2)
              add_rows<2>(job, grad, row, column, x, columns, moment);
        for (; row < end_row(job, row_chunk); ++row) add_rows<1>(job, grad, row, column, x, columns, moment);
      }
      for (int k = 0; k < count; ++k) at[0][k] = moment[k];
    }

    // Of rows that share what is read of x.
    template <int rows>
    PYSTN_HD void add_rows(const LatticeJob& job, const R* grad, int64_t row, int64_t column, const double* x,
                           int columns, Doubles (&moment)[count]) {
      const LatticeRow<R, ND> first(job, row), last(job, row + rows - 1);
      const R* const g[2] = {grad + first.offset + column * job.grid_axis[0],
                             grad + last.offset + column * job.grid_axis[0]};
      Doubles total[rows][count] = {};
      if (is_packed(job) && columns >= lattice_block)
        add_packed<rows>(g, x, columns, total, moment);
      else
        for (int r = 0; r < rows; ++r)
          add_apart(g[r], x, columns, job.grid_axis[0], job.grid_component, total[r], moment);
      for (int r = 0; r < rows; ++r)
        for (int k = 0; k < count; ++k) {
          for (int b = 1; b < ND; ++b) at[b][k] += total[r][k] * double((r ? last : first).at[b]);
          at[ND][k] += total[r][k];
        }
    }

    template <int rows>
    static PYSTN_HD void add_packed(const R* const (&g)[2], const double* x, int columns, Doubles (&total)[rows][count],
                                    Doubles (&moment)[count]) {
      int i = 0;
      for (; i + lattice_block <= columns; i += lattice_block) {
        for (int r = 0; r < rows; ++r)
          for (int at = ahead; at < ahead + lattice_block * ND * int(sizeof(R)); at += 64)
            __builtin_prefetch(reinterpret_cast<const char*>(g[r] + i * ND) + at);
        for (int k = 0; k < count; ++k) {
          const int e = i * ND + k * width;
          const Doubles along = load_doubles(x + e);
          for (int r = 0; r < rows; ++r) {
            const Doubles value = load_doubles(g[r] + e);
            total[r][k] += value;
            moment[k] += value * along;
          }
        }
      }
      if (i == columns) return;
      // The last block of the row, and 0 where pixels have been added.
      static constexpr LastOnes last;
      const double* const ones = last.one + (columns - i) * ND;
      for (int k = 0; k < count; ++k) {
        const int e = (columns - lattice_block) * ND + k * width;
        const Doubles along = load_doubles(x + e), is_left = load_doubles(ones + k * width);
        for (int r = 0; r < rows; ++r) {
          const Doubles some = load_doubles(g[r] + e), value = is_left > Doubles{} ? some : Doubles{};
          total[r][k] += value;
          moment[k] += value * along;
        }
      }
    }
    static PYSTN_HD void add_apart(const R* g, const double* x, int columns, int64_t column, int64_t component,
                                   Doubles (&total)[count], Doubles (&moment)[count]) {
      for (int i = 0; i < columns; i += lattice_block) {
        alignas(64) R some[lattice_block * ND] = {};
        for (int l = 0; l < lattice_block && i + l < columns; ++l)
          for (int a = 0; a < ND; ++a) some[l * ND + a] = g[(i + l) * column + a * component];
        for (int k = 0; k < count; ++k) {
          const Doubles value = load_doubles(some + k * width);
          total[k] += value;
          moment[k] += value * load_doubles(x + i * ND + k * width);
        }
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
    double* const partial = job.partial + chunk * ND * (ND + 1);
    Sums sums;
    sums.add(job, static_cast<const R*>(job.grid) + m * job.grid_matrix, chunk % job.row_chunks);
    for (int a = 0; a < ND; ++a)
      for (int b = 0; b <= ND; ++b) partial[a * (ND + 1) + b] = sums.sum(a, b);
  }
};

// grid = (q_x, q_y) / q_w with q = H [x, y, 1], and its derivatives. What the horizon hides is NaN, its derivatives 0.
template <class R>
struct ProjectiveLattice {
  using Matrix = MatrixRow<R>;
  static constexpr int rows = 3;

  static Matrix row_of(const void* matrices, int64_t m, const LatticeRow<R, 2>& row) {
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
    for_each_segment<R, 2>(
        job, chunk % job.row_chunks, [&](const LatticeRow<R, 2>& row, int64_t column, int count, const R* x) {
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
    for_each_segment<R, 2>(
        job, chunk % job.row_chunks, [&](const LatticeRow<R, 2>& row, int64_t column, int count, const R* x) {
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
