// Maps that are affine in each of some triangles: every point has weights of the three corners of one. The points of a
// row follow the same triangle mostly, which is looked up once for all that do so side by side.
#pragma once

#include <stdint.h>

#include "job.hpp"
#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

template <class R>
struct PiecewiseMap {
  static constexpr int corners = 3, values = 2 * corners;  // of a triangle, x of all corners first

  // Calls `part` with the triangle, the first and the last of points that follow it side by side.
  template <class Part>
  static PYSTN_HD void for_each_run(const PiecewiseJob& job, int64_t chunk, Part&& part) {
    const int64_t point0 = chunk * job.chunk_points, left = job.points - point0;
    const int64_t point1 = point0 + (left < job.chunk_points ? left : job.chunk_points);
    for (int64_t first = point0; first < point1;) {
      const int64_t triangle = job.label[first];
      int64_t last = first + 1;
      while (last < point1 && job.label[last] == triangle) ++last;
      part(triangle, first, last);
      first = last;
    }
  }

  static void forward(const PiecewiseJob& job, int64_t task) {
    const int64_t map = task / job.chunks;
    const R *const weight = static_cast<const R*>(job.weight), *const base = static_cast<const R*>(job.base);
    const R* const corner = static_cast<const R*>(job.corner) + map * values * job.triangles;
    R* const grid = static_cast<R*>(job.grid) + map * job.points * 2;
    for_each_run(job, task % job.chunks, [&](int64_t triangle, int64_t first, int64_t last) {
      R at[values];
      for (int v = 0; v < values; ++v) at[v] = corner[v * job.triangles + triangle];
      for (int64_t p = first; p < last; ++p) {
        const R a = weight[p], b = weight[job.points + p], c = weight[2 * job.points + p];
        const R x = at[0] * a + at[1] * b + at[2] * c, y = at[3] * a + at[4] * b + at[5] * c;
        grid[2 * p] = base ? x + base[2 * p] : x;
        grid[2 * p + 1] = base ? y + base[2 * p + 1] : y;
      }
    });
  }

  // partial: the gradient to the corners. Weights are in double.
  static void vjp(const PiecewiseJob& job, int64_t task) {
    const double* const weight = static_cast<const double*>(job.weight);
    const R* const grid = static_cast<const R*>(job.grid) + task / job.chunks * job.points * 2;
    double* const partial = job.partial + task * values * job.triangles;
    for_each_run(job, task % job.chunks, [&](int64_t triangle, int64_t first, int64_t last) {
      double sum[values] = {};
      for (int64_t p = first; p < last; ++p)
        for (int v = 0; v < corners; ++v) {
          sum[v] += double(grid[2 * p]) * weight[v * job.points + p];
          sum[corners + v] += double(grid[2 * p + 1]) * weight[v * job.points + p];
        }
      for (int v = 0; v < values; ++v) partial[v * job.triangles + triangle] += sum[v];
    });
  }
};

}  // namespace pystn::PYSTN_LEVEL
