// Piecewise affine maps, some points of one map at a time. The points of a row follow the same triangle mostly, which
// is looked up once for all that do so side by side.
#pragma once

#include <stdint.h>
#include <string.h>

#include "job.hpp"
#include "piecewise.hpp"
#include "point_range.hpp"

namespace pystn::PYSTN_LEVEL {

template <class R>
struct PiecewiseMap {
  // Calls `part` with the corners of a triangle, the first and the last of points that follow it side by side.
  template <class Part>
  static PYSTN_HD void for_each_run(const PiecewiseJob& job, int64_t index, Part&& part) {
    const PointRange points(job.parts, index % job.parts.count);
    int64_t run = 0;
    for (int64_t after = job.runs; after - run > 1;) {  // the one that the first point is in
      const int64_t middle = run + (after - run) / 2;
      (job.start[middle] <= points.first ? run : after) = middle;
    }
    for (int64_t first = points.first; first < points.last; ++run) {
      const int64_t end = job.start[run + 1], last = end < points.last ? end : points.last;
      part(job.corner + 3 * job.followed[run], first, last);
      first = last;
    }
  }

  static void forward(const PiecewiseJob& job, int64_t task) {
    job.base ? write<true>(job, task) : write<false>(job, task);
  }
  template <bool adds>
  static PYSTN_HD void write(const PiecewiseJob& job, int64_t task) {
    const int64_t map = task / job.parts.count, points = job.parts.points;
    const R *const weight = static_cast<const R*>(job.weight), *const base = static_cast<const R*>(job.base);
    const R* const value = static_cast<const R*>(job.value) + map * job.values * 2;
    R* const grid = static_cast<R*>(job.grid) + map * points * 2;
    for_each_run(job, task, [&](const int64_t* corner, int64_t first, int64_t last) {
      const R *const a = value + 2 * corner[0], *const b = value + 2 * corner[1], *const c = value + 2 * corner[2];
      const R ax = a[0], ay = a[1], bx = b[0], by = b[1], cx = c[0], cy = c[1];
      const R* const w = weight + first;
      const R* const from = adds ? base + 2 * first : nullptr;
      R* __restrict const to = grid + 2 * first;
      for (int64_t i = 0; i < last - first; ++i) {
        const R x = weighted_corners(ax, bx, cx, w[i], w[points + i], w[2 * points + i]);
        const R y = weighted_corners(ay, by, cy, w[i], w[points + i], w[2 * points + i]);
        to[2 * i] = adds ? x + from[2 * i] : x;
        to[2 * i + 1] = adds ? y + from[2 * i + 1] : y;
      }
    });
  }

  // partial: the gradient to the values.
  static void vjp(const PiecewiseJob& job, int64_t task) {
    const int64_t points = job.parts.points;
    const double* const weight = static_cast<const double*>(job.weight);
    const R* const grid = static_cast<const R*>(job.grid) + task / job.parts.count * points * 2;
    double* const partial = job.partial + task * job.values * 2;
    for_each_run(job, task, [&](const int64_t* corner, int64_t first, int64_t last) {
      TwoPoints sum[3] = {};
      int64_t p = first;
      for (; p + 2 <= last; p += 2) {
        const TwoPoints g = both(grid + 2 * p);
        for (int v = 0; v < 3; ++v) add(sum[v], g, weight[v * points + p], weight[v * points + p + 1]);
      }
      if (p < last) {
        const R one[4] = {grid[2 * p], grid[2 * p + 1]};
        for (int v = 0; v < 3; ++v) add(sum[v], both(one), weight[v * points + p], 0);
      }
      for (int v = 0; v < 3; ++v)
        for (int a = 0; a < 2; ++a) partial[2 * corner[v] + a] += sum[v][a] + sum[v][2 + a];
    });
  }

 private:
  // (x, y, x, y) of two points, or sums of them.
#if defined(__GNUC__)
  typedef double TwoPoints __attribute__((vector_size(32)));

  static PYSTN_HD TwoPoints both(const R* from) {
    typedef R Stored __attribute__((vector_size(4 * sizeof(R))));
    Stored v;
    memcpy(&v, from, sizeof v);
    return __builtin_convertvector(v, TwoPoints);
  }
  static PYSTN_HD void add(TwoPoints& sum, TwoPoints g, double first, double second) {
    sum += g * TwoPoints{first, first, second, second};
  }
#else
  struct TwoPoints {
    double at[4];
    double operator[](int i) const { return at[i]; }
  };

  static PYSTN_HD TwoPoints both(const R* from) { return {{from[0], from[1], from[2], from[3]}}; }
  static PYSTN_HD void add(TwoPoints& sum, TwoPoints g, double first, double second) {
    for (int i = 0; i < 4; ++i) sum.at[i] += g.at[i] * (i < 2 ? first : second);
  }
#endif
};

}  // namespace pystn::PYSTN_LEVEL
