// Grids that are linear in their parameters: a matrix times the values of some functions at the points of the target.
// A product of matrices, of which one has two or three rows: libraries are made for larger ones. A task has some
// points, one a lane, and some matrices, of which a few at a time share what is read of the functions.
#pragma once

#include <stdint.h>
#include <string.h>

#include <type_traits>

#if defined(__GNUC__) && defined(__AVX__)
#include <immintrin.h>
#endif

#include "job.hpp"
#include "portability.hpp"
#include "vectors.hpp"

namespace pystn::PYSTN_LEVEL {

template <class R, int ND>
struct LinearLattice {
  using V = typename Vectors<R>::V;
  static constexpr int lanes = Vectors<R>::lanes;
  // Matrices whose grids are made together, and matrices and functions whose gradients are, as registers have room.
#if defined(__AVX512F__)
  static constexpr int together = 2, matrices = ND == 1 ? 4 : ND == 2 ? 3 : ND == 3 ? 2 : 1, functions = 4;
#else
  static constexpr int together = ND <= 2 ? 2 : 1, matrices = together, functions = 2;
#endif
  static constexpr int64_t packed_values = 8192, most_points = linear_bytes / int64_t(sizeof(R));

  static PYSTN_HD V load(const R* from, int64_t count) {
    V v{};
    if (count >= lanes)
      memcpy(&v, from, sizeof v);
    else
      memcpy(&v, from, size_t(count) * sizeof(R));
    return v;
  }

  // What a task has.
  struct Task {
    int64_t point0, point1, matrix0, matrix1;
    const R* functions;

    Task(const LinearJob& job, int64_t task) {
      const int64_t blocks = (job.per_basis + job.chunk_matrices - 1) / job.chunk_matrices;
      const int64_t basis = task / (job.point_chunks * blocks), block = task / job.point_chunks % blocks;
      point0 = task % job.point_chunks * job.chunk_points;
      point1 = point0 + job.chunk_points < job.points ? point0 + job.chunk_points : job.points;
      matrix0 = basis * job.per_basis + block * job.chunk_matrices;
      matrix1 = matrix0 + job.chunk_matrices;
      if (matrix1 > (basis + 1) * job.per_basis) matrix1 = (basis + 1) * job.per_basis;
      functions = static_cast<const R*>(job.basis) + basis * job.functions * job.points;
    }
  };

  // grid = theta basis at `lanes` points, of which there are `count`, for `some` matrices.
  template <int some>
  static PYSTN_HD void combine(const LinearJob& job, const R* theta, const R* basis, int64_t row, int64_t count,
                               R* grid) {
    V sum[some][ND] = {};
    for (int64_t k = 0; k < job.functions; ++k) {
      const V value = load(basis + k * row, count);
      for (int m = 0; m < some; ++m)
        for (int a = 0; a < ND; ++a)
          sum[m][a] += theta[m * job.theta_matrix + a * job.theta_row + k * job.theta_function] * value;
    }
    for (int m = 0; m < some; ++m) {
      V whole[ND];  // sums whose address is taken would not stay in registers
      for (int a = 0; a < ND; ++a) whole[a] = sum[m][a];
      put(whole, count, grid + m * job.points * ND);
    }
  }
  static PYSTN_HD void put(const V (&sum)[ND], int64_t count, R* to) {
    alignas(64) R along[ND][lanes];
    memcpy(along, sum, sizeof along);
    if (count >= lanes)
      for (int i = 0; i < lanes; ++i)
        for (int a = 0; a < ND; ++a) to[i * ND + a] = along[a][i];
    else
      for (int i = 0; i < count; ++i)
        for (int a = 0; a < ND; ++a) to[i * ND + a] = along[a][i];
  }

  // The same at all points of a task, for a matrix, of a basis that is in no near cache: processors foresee few rows at
  // once, so some functions at a time add to sums that are kept.
  static PYSTN_APART void accumulate(const LinearJob& job, const Task& task, int64_t m) {
    alignas(64) R sum[ND][streamed_points];
    const R* const theta = static_cast<const R*>(job.theta) + m * job.theta_matrix;
    const int64_t count = task.point1 - task.point0;
    int64_t k = 0;
    for (; k + at_once <= job.functions; k += at_once) add_functions<at_once>(job, task, theta, k, count, sum);
    for (; k < job.functions; ++k) add_functions<1>(job, task, theta, k, count, sum);
    R* const to = static_cast<R*>(job.grid) + (m * job.points + task.point0) * ND;
    for (int64_t i = 0; i < count; i += lanes) {
      V whole[ND];
      for (int a = 0; a < ND; ++a) whole[a] = load(sum[a] + i, lanes);
      put(whole, count - i, to + i * ND);
    }
  }
  static constexpr int at_once = 4;
  static constexpr int64_t streamed_points = streamed_linear_bytes / int64_t(sizeof(R));
  template <int some>
  static PYSTN_HD void add_functions(const LinearJob& job, const Task& task, const R* theta, int64_t k, int64_t count,
                                     R (&sum)[ND][streamed_points]) {
    const R* const basis = task.functions + k * job.points + task.point0;
    R weight[some][ND];
    for (int f = 0; f < some; ++f)
      for (int a = 0; a < ND; ++a) weight[f][a] = theta[a * job.theta_row + (k + f) * job.theta_function];
    for (int64_t i = 0; i < count; i += lanes) {
      V total[ND];
      for (int a = 0; a < ND; ++a) total[a] = k ? load(sum[a] + i, lanes) : V{};
      for (int f = 0; f < some; ++f) {
        const V value = load(basis + f * job.points + i, count - i);
        for (int a = 0; a < ND; ++a) total[a] += weight[f][a] * value;
      }
      for (int a = 0; a < ND; ++a) memcpy(sum[a] + i, &total[a], sizeof total[a]);
    }
  }

  static void forward(const LinearJob& job, int64_t index) {
    const Task task(job, index);
    if (job.streams) return accumulate(job, task, task.matrix0);
    const R* const theta = static_cast<const R*>(job.theta);
    R* const grid = static_cast<R*>(job.grid);
    // What many matrices read, or is of many rows, from one place: rows may be a power of two apart, and push each
    // other out of the caches.
    alignas(64) R pack[packed_values];
    const bool worthwhile = task.matrix1 - task.matrix0 > 2 * together || job.functions > 32;
    const bool packs = worthwhile && job.functions > 0 && job.functions * lanes <= packed_values;
    const int64_t step = packs ? packed_values / job.functions / lanes * lanes : task.point1 - task.point0;
    for (int64_t p0 = task.point0; p0 < task.point1; p0 += step) {
      const int64_t p1 = p0 + step < task.point1 ? p0 + step : task.point1;
      for (int64_t k = 0; packs && k < job.functions; ++k)
        memcpy(pack + k * step, task.functions + k * job.points + p0, size_t(p1 - p0) * sizeof(R));
      const R* const basis = packs ? pack : task.functions + p0;
      const int64_t row = packs ? step : job.points;
      for (int64_t m = task.matrix0; m < task.matrix1;) {
        const bool whole = m + together <= task.matrix1;
        const R* const matrix = theta + m * job.theta_matrix;
        for (int64_t p = p0; p < p1; p += lanes) {
          R* const to = grid + (m * job.points + p) * ND;
          if (whole)
            combine<together>(job, matrix, basis + (p - p0), row, p1 - p, to);
          else
            combine<1>(job, matrix, basis + (p - p0), row, p1 - p, to);
        }
        m += whole ? together : 1;
      }
    }
  }

  // partial[matrix, point_chunk] = sum over the points of g basis: in lanes over a task's points, of which there are
  // few; chunks add up in double.
  template <int some>
  static PYSTN_HD void add_up(const LinearJob& job, const Task& task, int64_t chunk, int64_t m) {
    alignas(64) R g[some][ND][most_points];
    const int64_t count = task.point1 - task.point0;
    for (int t = 0; t < some; ++t) {
      const R* const from = static_cast<const R*>(job.grid) + ((m + t) * job.points + task.point0) * ND;
      for (int64_t i = 0; i < count; ++i)
        for (int a = 0; a < ND; ++a) g[t][a][i] = from[i * ND + a];
      for (int64_t i = count; i % lanes; ++i)
        for (int a = 0; a < ND; ++a) g[t][a][i] = R(0);
    }
    double* const to = job.partial + (m * job.point_chunks + chunk) * job.functions * ND;
    int64_t k = 0;
    for (; k + functions <= job.functions; k += functions) add_up<some, functions>(job, task, g, k, to + k * ND);
    for (; k < job.functions; ++k) add_up<some, 1>(job, task, g, k, to + k * ND);
  }

  // The same for so many functions from k on, which share what is read of g.
  template <int some, int some_functions>
  static PYSTN_HD void add_up(const LinearJob& job, const Task& task, const R (&g)[some][ND][most_points], int64_t k,
                              double* to) {
    const int64_t count = task.point1 - task.point0;
    const R* const values = task.functions + k * job.points + task.point0;
    V sum[some * some_functions * ND] = {};
    for (int64_t i = 0; i < count; i += lanes) {
      V value[some_functions];
      for (int f = 0; f < some_functions; ++f) {
        value[f] = load(values + f * job.points + i, count - i);
        prefetch(values + i, (f + some_functions) * job.points);
      }
      for (int t = 0; t < some; ++t)
        for (int a = 0; a < ND; ++a) {
          const V gradient = load(g[t][a] + i, lanes);
          for (int f = 0; f < some_functions; ++f) {
            V& s = sum[(t * some_functions + f) * ND + a];
            s = multiply_add(gradient, value[f], s);
          }
        }
    }
    alignas(64) R sums[some * some_functions * ND + lanes];
    totals<some * some_functions * ND>(sum, sums);
    for (int t = 0; t < some; ++t, to += job.point_chunks * job.functions * ND)
      for (int s = 0; s < some_functions * ND; ++s) to[s] = double(sums[t * some_functions * ND + s]);
  }

  // Rows of a basis are further apart than what processors foresee.
  static PYSTN_HD void prefetch([[maybe_unused]] const R* from, [[maybe_unused]] int64_t ahead) {
#if defined(__GNUC__)
    __builtin_prefetch(reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(from) + uintptr_t(ahead) * sizeof(R)));
#endif
  }

  static PYSTN_HD V multiply_add(V a, V b, V sum) {
#if defined(__GNUC__) && defined(__AVX512F__)
    if constexpr (sizeof(R) == 4)
      return V(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(sum)));
    else
      return V(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(sum)));
#elif defined(__GNUC__) && defined(__FMA__)
    if constexpr (sizeof(R) == 4)
      return V(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(sum)));
    else
      return V(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(sum)));
#else
    return sum + a * b;
#endif
  }

  // The sums of the lanes of so many vectors, halves by halves; `to` has room for a vector more.
  template <int vectors>
  static PYSTN_HD void totals(const V* sum, R* to) {
#if defined(__GNUC__) && defined(__AVX512F__)
    total_blocks<vectors, 0>(sum, to);
#else
    for (int v = 0; v < vectors; ++v) {
      alignas(64) R part[lanes];
      memcpy(part, &sum[v], sizeof part);
      for (int n = lanes / 2; n; n /= 2)
        for (int l = 0; l < n; ++l) part[l] += part[l + n];
      to[v] = part[0];
    }
#endif
  }

#if defined(__GNUC__) && defined(__AVX512F__)
  // As many vectors at a time as they have lanes.
  template <int vectors, int first>
  static PYSTN_HD void total_blocks(const V* sum, R* to) {
    if constexpr (first < vectors) {
      const V block = folded<vectors - first, 1>(sum + first);
      memcpy(to + first, &block, sizeof block);
      total_blocks<vectors, first + lanes>(sum, to);
    }
  }

  // In lane l of a row of n lanes, the sum of such lanes of vector l: of vectors 0, n, 2n ... where n is 1.
  template <int vectors, int n>
  static PYSTN_HD V folded(const V* sum) {
    if constexpr (vectors <= 0)
      return V{};
    else if constexpr (n == lanes)
      return sum[0];
    else
      return merged<n>(folded<vectors, 2 * n>(sum), folded<vectors - n, 2 * n>(sum + n));
  }

  // Lanes with their neighbours n further on: of a where bit n of the lane is clear, else of b.
  template <int n>
  static PYSTN_HD V merged(V a, V b) {
    using Integer = std::conditional_t<sizeof(R) == 4, int32_t, int64_t>;
    typedef Integer Lanes __attribute__((vector_size(64)));
    Lanes lane;
    for (int l = 0; l < lanes; ++l) lane[l] = l;
    const Lanes of_b = (lane & n) * (lanes / n), own = lane | of_b, neighbour = (lane ^ n) | of_b;
    if constexpr (sizeof(R) == 4)
      return V(_mm512_permutex2var_ps(__m512(a), __m512i(own), __m512(b))) +
             V(_mm512_permutex2var_ps(__m512(a), __m512i(neighbour), __m512(b)));
    else
      return V(_mm512_permutex2var_pd(__m512d(a), __m512i(own), __m512d(b))) +
             V(_mm512_permutex2var_pd(__m512d(a), __m512i(neighbour), __m512d(b)));
  }
#endif

  // Those from m on, so many at a time, then what is left.
  template <int some>
  static PYSTN_HD void add_up_from(const LinearJob& job, const Task& task, int64_t chunk, int64_t m) {
    for (; m + some <= task.matrix1; m += some) add_up<some>(job, task, chunk, m);
    if constexpr (some > 1) add_up_from<some - 1>(job, task, chunk, m);
  }

  static void vjp(const LinearJob& job, int64_t index) {
    const Task task(job, index);
    add_up_from<matrices>(job, task, index % job.point_chunks, task.matrix0);
  }
};

}  // namespace pystn::PYSTN_LEVEL
