// Grids that a matrix makes: of the lattice of the output, or of the values of some functions at its points; and the
// gradients to those matrices.
//
// Consecutive threads have consecutive components of consecutive pixels, so what they read or write together lies
// together. A pixel's components are all in one block, whose size is a multiple of theirs.
#pragma once

#include "coordinates.hpp"
#include "threads.cuh"

namespace pystn::PYSTN_LEVEL {

// A power of two, so that sums can be halved.
template <int ND>
constexpr int block_pixels = ND == 1   ? 256
                             : ND == 2 ? 128
                                       : 64;

// ---- The lattice of an output under a matrix

// A grid (M, *size, ndim) in tiles: columns, and rows of one or of many matrices. A block has the `lanes` first
// columns of as many rows as its threads suffice for, and goes on down the tile.
struct LatticeJob {
  const void* theta;     // (M, ndim, ndim + 1), or (M, 3, 3) of projective maps, contiguous
  const void* d_theta;   // of those: the matrices' tangent, or the cotangent of their gradient
  void* grid;            // also the cotangent
  double* partial;       // (M, chunks) and a matrix, for the vjp
  Index count, size[3];  // matrices; pixels, x first
  Index rows;            // of one matrix: the product of the axes but x
  Index grid_matrix, grid_axis[3], grid_component;
  Index tile_columns, tile_rows;
  double least_denominator;
  int lanes, align_corners, cull_behind, unused;
};

constexpr int most_tile_rows = 256;
constexpr int lattice_batch = 4;  // pixels that a thread loads together, so that one wait is for all of them

// Where a row of the lattice starts, its matrix and its normalised coordinates but x.
template <class R, int ND, class Int>
struct LatticeRow {
  R at[ND];
  Index matrix, offset;

  PYSTN_HD LatticeRow(const LatticeJob& job, Int row) : at{}, offset(0) {
    for (int b = 1; b < ND; ++b) {
      const Int n = Int(job.size[b]), j = row % n;
      row /= n;
      at[b] = lattice<R>(j, n, job.align_corners);
      offset += j * job.grid_axis[b];
    }
    matrix = row;
    offset += matrix * job.grid_matrix;
  }
};

// What of a tile a thread has.
template <int ND>
struct LatticeLane {
  int component, column, row, rows;

  PYSTN_HD LatticeLane(const LatticeJob& job, int thread) {
    const int pixel = thread / ND;
    component = thread % ND;
    column = pixel % job.lanes;
    row = pixel / job.lanes;
    rows = block_pixels<ND> / job.lanes;
  }
};

template <class Int>
PYSTN_HD Int tiles_of(Int length, Index tile) {
  return Int((length + tile - 1) / tile);
}

template <class Int>
PYSTN_HD Int least(Int a, Int b) {
  return a < b ? a : b;
}

// Rows of different matrices may share a tile.
template <class R, int ND, class Int>
__global__ void affine_grid(LatticeJob job) {
  __shared__ R slope[ND][most_tile_rows], constant[ND][most_tile_rows];
  __shared__ Index offset[most_tile_rows];
  const R* const theta = static_cast<const R*>(job.theta);
  const LatticeLane<ND> lane(job, threadIdx.x);
  const Int columns = Int(job.size[0]), rows = Int(job.count * job.rows);
  const Int column_tiles = tiles_of(columns, job.tile_columns), tiles = column_tiles * tiles_of(rows, job.tile_rows);
  for (Int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const Int column0 = tile % column_tiles * Int(job.tile_columns), row0 = tile / column_tiles * Int(job.tile_rows);
    const Int column1 = least(columns, column0 + Int(job.tile_columns));
    const int count = int(least(rows - row0, Int(job.tile_rows)));
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      const LatticeRow<R, ND, Int> row(job, row0 + i);
      const MatrixRow<R> map(theta + row.matrix * (ND * (ND + 1)), ND, ND, row.at);
      offset[i] = row.offset;
      for (int a = 0; a < ND; ++a) {
        slope[a][i] = map.slope[a];
        constant[a][i] = map.constant[a];
      }
    }
    __syncthreads();
    for (Int column = column0 + lane.column; column < column1; column += job.lanes) {
      const R x = lattice<R>(column, columns, job.align_corners);
      R* const to = static_cast<R*>(job.grid) + column * job.grid_axis[0] + lane.component * job.grid_component;
      for (int i = lane.row; i < count; i += lane.rows)
        to[offset[i]] = slope[lane.component][i] * x + constant[lane.component][i];
    }
    __syncthreads();
  }
}

// partial[m, chunk] = sum over a tile of one matrix of g [x, y(, z), 1]^T. A thread adds up its component of g, down
// its columns, and the block halves by halves.
template <class R, int ND, class Int>
__global__ void affine_grid_vjp(LatticeJob job) {
  __shared__ double at[ND][most_tile_rows], sum[ND + 1][block_pixels<ND> * ND];
  __shared__ Index offset[most_tile_rows];
  const int thread = threadIdx.x;
  const LatticeLane<ND> lane(job, thread);
  const Int columns = Int(job.size[0]), rows = Int(job.rows);
  const Int column_tiles = tiles_of(columns, job.tile_columns), tiles = column_tiles * tiles_of(rows, job.tile_rows);
  const Int chunks = Int(job.count) * tiles;
  for (Int chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const Int matrix = chunk / tiles, tile = chunk % tiles;
    const Int column0 = tile % column_tiles * Int(job.tile_columns), row0 = tile / column_tiles * Int(job.tile_rows);
    const Int column1 = least(columns, column0 + Int(job.tile_columns));
    const int count = int(least(rows - row0, Int(job.tile_rows)));
    for (int i = thread; i < count; i += blockDim.x) {
      const LatticeRow<R, ND, Int> row(job, matrix * rows + row0 + i);
      offset[i] = row.offset;
      for (int b = 1; b < ND; ++b) at[b][i] = double(row.at[b]);
    }
    __syncthreads();
    double total[ND + 1] = {};
    for (Int column = column0 + lane.column; column < column1; column += job.lanes) {
      const R* const from =
          static_cast<const R*>(job.grid) + column * job.grid_axis[0] + lane.component * job.grid_component;
      double along = 0;
      for (int i = lane.row; i < count; i += lattice_batch * lane.rows) {
        R g[lattice_batch];
        for (int u = 0; u < lattice_batch; ++u)
          g[u] = i + u * lane.rows < count ? from[offset[i + u * lane.rows]] : R(0);
        for (int u = 0; u < lattice_batch; ++u) {
          if (i + u * lane.rows >= count) continue;
          along += double(g[u]);
          for (int b = 1; b < ND; ++b) total[b] += double(g[u]) * at[b][i + u * lane.rows];
        }
      }
      total[0] += along * double(lattice<R>(column, columns, job.align_corners));
      total[ND] += along;
    }
    for (int b = 0; b <= ND; ++b) sum[b][thread] = total[b];
    for (int half = block_pixels<ND> / 2; half > 0; half /= 2) {
      __syncthreads();
      if (thread < half * ND)
        for (int b = 0; b <= ND; ++b) sum[b][thread] += sum[b][thread + half * ND];
    }
    __syncthreads();
    if (thread < ND * (ND + 1))
      job.partial[chunk * Index(ND * (ND + 1)) + thread] = sum[thread % (ND + 1)][thread / (ND + 1)];
    __syncthreads();
  }
}

// A pixel of the lattice under a projective map: grid = (q_x, q_y) / q_w with q = H [x, y, 1], and its derivatives.
template <class R, class Int>
struct ProjectedPixel {
  R x, y, q, part, at[2], d[3];
  bool hidden;
  Index offset;

  PYSTN_HD ProjectedPixel(const LatticeJob& job, Int row_of_all, Int column) {
    const LatticeRow<R, 2, Int> row(job, row_of_all);
    const MatrixRow<R> map(static_cast<const R*>(job.theta) + row.matrix * 9, 3, 2, row.at);
    x = lattice<R>(column, Index(job.size[0]), job.align_corners);
    y = row.at[1];
    q = map(2, x);
    part = R(1) / q;
    for (int a = 0; a < 2; ++a) at[a] = map(a, x);
    for (int a = 0; a < 3; ++a) d[a] = R(0);
    if (job.d_theta) {
      const MatrixRow<R> d_map(static_cast<const R*>(job.d_theta) + row.matrix * 9, 3, 2, row.at);
      for (int a = 0; a < 3; ++a) d[a] = d_map(a, x);
    }
    hidden = Horizon<R>{R(job.least_denominator), job.cull_behind != 0}.hides(q);
    offset = row.offset + column * job.grid_axis[0];
  }
};

// The grid, NaN where the horizon hides it; or, where the matrices have a tangent, that of the grid, 0 there.
template <class R, class Int>
__global__ void projective_grid(LatticeJob job) {
  const Index count = job.count * job.rows * job.size[0];
  for (Index turn = first_turn(); turn < count; turn += turn_stride()) {
    const Int columns = Int(job.size[0]);
    const ProjectedPixel<R, Int> pixel(job, Int(turn) / columns, Int(turn) % columns);
    R* const to = static_cast<R*>(job.grid) + pixel.offset;
    for (int a = 0; a < 2; ++a) {
      R value = pixel.at[a] / pixel.q;
      if (job.d_theta) value = projected_tangent(value, pixel.d[a], pixel.d[2], pixel.q);
      const R lost = job.d_theta ? R(0) : infinity<R>() - infinity<R>();
      to[a * job.grid_component] = pixel.hidden ? lost : value;
    }
  }
}

// partial[m, chunk] = sum over a tile of one matrix of what reaches q, times [x, y, 1]^T. That is the cotangent's, or,
// with a cotangent of the gradient to the matrices, what of it does.
template <class R, class Int>
__global__ void projective_grid_vjp(LatticeJob job) {
  __shared__ double sums_of_threads[block_threads];
  const Int columns = Int(job.size[0]), rows = Int(job.rows);
  const Int column_tiles = tiles_of(columns, job.tile_columns), tiles = column_tiles * tiles_of(rows, job.tile_rows);
  const Int matrix = Int(blockIdx.x) / tiles, tile = Int(blockIdx.x) % tiles;
  const Int column0 = tile % column_tiles * Int(job.tile_columns), row0 = tile / column_tiles * Int(job.tile_rows);
  double sums[3][3] = {};
  for (int i = threadIdx.x; i < int(job.tile_columns * job.tile_rows); i += block_threads) {
    const Int column = column0 + i % Int(job.tile_columns), row = row0 + i / Int(job.tile_columns);
    if (column >= columns || row >= rows) continue;
    const ProjectedPixel<R, Int> pixel(job, matrix * rows + row, column);
    if (pixel.hidden) continue;
    const R* const g = static_cast<const R*>(job.grid) + pixel.offset;
    const R rate = pixel.d[2] * pixel.part;
    R share[2], at[2], through[3];
    for (int a = 0; a < 2; ++a) {
      share[a] = g[a * job.grid_component] * pixel.part;
      at[a] = pixel.at[a] * pixel.part;
      through[a] = job.d_theta ? -rate * share[a] : share[a];
    }
    through[2] = pulled_to_q(share[0], share[1], at[0], at[1]);
    if (job.d_theta)
      through[2] = tangent_pulled_to_q(share[0], at[0], pixel.d[0] * pixel.part, rate) +
                   tangent_pulled_to_q(share[1], at[1], pixel.d[1] * pixel.part, rate);
    for (int r = 0; r < 3; ++r) {
      sums[r][0] += double(through[r]) * double(pixel.x);
      sums[r][1] += double(through[r]) * double(pixel.y);
      sums[r][2] += double(through[r]);
    }
  }
  for (int r = 0; r < 3; ++r)
    for (int b = 0; b < 3; ++b) {
      const double sum = block_sum(sums[r][b], sums_of_threads);
      if (threadIdx.x == 0) job.partial[Index(blockIdx.x) * 9 + r * 3 + b] = sum;
    }
}

// ---- A matrix times the values of some functions at the points of the target

struct LinearJob {    // theta (M, rows, functions), basis (B, functions, points) -> grid (M, points, rows)
  const void* theta;  // all arrays are contiguous
  const void* basis;
  void* grid;       // also the cotangent
  double* partial;  // (M, chunks, rows, functions), for the vjp
  Index bases;
  Index per_basis;  // matrices, one after the other, that share a basis
  Index functions, points;
};

constexpr int linear_steps = 4;       // points of a thread
constexpr int linear_functions = 32;  // whose matrix entries are in shared memory together
constexpr int linear_points = 2048;   // that a warp adds up

// A block has some points and `together` matrices, which share what is read of the functions. Blocks of the same
// points follow each other, to find the functions' values in a cache.
template <class R, int ND, int together, class Int>
__global__ void linear_grid(LinearJob job) {
  constexpr int pixels = block_pixels<ND>, tile = pixels * linear_steps;
  alignas(32) __shared__ R entries[linear_functions][ND][together];
  const int component = threadIdx.x % ND, pixel = threadIdx.x / ND;
  const Int per_basis = Int(job.per_basis), functions = Int(job.functions), points = Int(job.points);
  const Int groups = tiles_of(per_basis, together), tiles = tiles_of(points, tile);
  const Int tasks = Int(job.bases) * tiles * groups;
  for (Int task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Int basis = task / groups / tiles, point = task / groups % tiles * tile + pixel;
    const Int first = task % groups * together;
    const int count = int(least(per_basis - first, Int(together)));
    const Index matrix = Index(basis) * per_basis + first;
    const R* const theta = static_cast<const R*>(job.theta) + matrix * ND * functions;
    const R* from = static_cast<const R*>(job.basis) + Index(basis) * functions * points + point;
    R sum[together][linear_steps] = {};
    for (Int k0 = 0; k0 < functions; k0 += linear_functions) {
      __syncthreads();
      for (int e = threadIdx.x; e < linear_functions * ND * together; e += blockDim.x) {
        const int k = e % linear_functions, a = e / linear_functions % ND, m = e / linear_functions / ND;
        if (k0 + k < functions) entries[k][a][m] = m < count ? theta[Index(m * ND + a) * functions + k0 + k] : R(0);
      }
      __syncthreads();
      const int some = int(least(functions - k0, Int(linear_functions)));
      for (int k = 0; k < some; ++k, from += points) {
        R value[linear_steps];
        for (int i = 0; i < linear_steps; ++i) value[i] = point + i * pixels < points ? from[i * pixels] : R(0);
        for (int m = 0; m < together; ++m)
          for (int i = 0; i < linear_steps; ++i) sum[m][i] += entries[k][component][m] * value[i];
      }
    }
    R* const to = static_cast<R*>(job.grid) + (matrix * points + point) * ND + component;
    for (int m = 0; m < together; ++m)
      for (int i = 0; i < linear_steps; ++i)
        if (m < count && point + i * pixels < points) to[(Index(m) * points + i * pixels) * ND] = sum[m][i];
  }
}

// partial[matrix, chunk] = sum over the chunk's points of g basis. A warp has a chunk, `together` matrices and a few
// functions; a lane adds up 64 points at most in the precision of the arrays, what follows is in double.
template <class R, int ND, int together, class Int>
__global__ void linear_grid_vjp(LinearJob job) {
  constexpr int some = together == 1 ? 8 : ND <= 2 ? 4 : 2, sums = together * some, spread = 32 / sums;
  const int lane = threadIdx.x % 32;
  const Int per_basis = Int(job.per_basis), functions = Int(job.functions), points = Int(job.points);
  const Int groups = tiles_of(per_basis, together), chunks = tiles_of(points, linear_points);
  const Int blocks = tiles_of(functions, some), tasks = Int(job.bases) * chunks * groups * blocks;
  const Int warps = Int(gridDim.x) * Int(blockDim.x / 32);
  for (Int task = Int(blockIdx.x) * Int(blockDim.x / 32) + Int(threadIdx.x / 32); task < tasks; task += warps) {
    const Int k0 = task % blocks * some, first = task / blocks % groups * together;
    const Int chunk = task / blocks / groups % chunks, basis = task / blocks / groups / chunks;
    const Int end = least(points, (chunk + 1) * linear_points);
    const Index matrix = Index(basis) * per_basis + first;
    // What is beyond the last matrix or function repeats the last.
    const R *gradient[together], *values[some];
    for (int m = 0; m < together; ++m)
      gradient[m] = static_cast<const R*>(job.grid) + (matrix + least(per_basis - 1 - first, Int(m))) * points * ND;
    for (int k = 0; k < some; ++k)
      values[k] = static_cast<const R*>(job.basis) + (Index(basis) * functions + least(functions - 1, k0 + k)) * points;
    R total[ND][together][some] = {};
    for (Int point = chunk * linear_points + lane; point < end; point += 32) {
      R value[some];
      for (int k = 0; k < some; ++k) value[k] = values[k][point];
      for (int m = 0; m < together; ++m)
        for (int a = 0; a < ND; ++a) {
          const R g = gradient[m][Index(point) * ND + a];
          for (int k = 0; k < some; ++k) total[a][m][k] += g * value[k];
        }
    }
    for (int a = 0; a < ND; ++a) {
      double apart[sums];
      for (int s = 0; s < sums; ++s) apart[s] = double(total[a][s / some][s % some]);
      const double sum = warp_sum(lane, apart);
      const int m = lane / spread / some, k = lane / spread % some;
      if (lane % spread == 0 && first + m < per_basis && k0 + k < functions)
        job.partial[(((matrix + m) * chunks + chunk) * ND + a) * functions + k0 + k] = sum;
    }
  }
}

}  // namespace pystn::PYSTN_LEVEL
