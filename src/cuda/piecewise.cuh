// Piecewise affine maps, a point in a thread. For the gradient a warp has some points of one map, and adds up what they
// give in values of its own.
#pragma once

#include "piecewise.hpp"
#include "threads.cuh"

namespace pystn::PYSTN_LEVEL {

struct PiecewiseJob {
  const Index* triangle;  // of each point
  const Index* corner;    // (triangles, 3): among the values
  const void* weight;     // (3, points): for the vjp in double
  const void* base;       // (points, 2): what is added, or null
  const void* value;      // (M, values, 2): not for the vjp
  void* grid;             // (M, points, 2); also the cotangent
  double* partial;        // (M, parts, values, 2), set to 0: for the vjp
  PointParts parts;
  Index values;
};

constexpr int maps_together = 8;  // of which a thread has a point, whose triangle and weights it reads once

template <class R>
__global__ void piecewise(PiecewiseJob job) {
  const Index maps = job.parts.maps, points = job.parts.points;
  const Index count = (maps + maps_together - 1) / maps_together * points;
  for (Index turn = first_turn(); turn < count; turn += turn_stride()) {
    const Index point = turn % points, first = turn / points * maps_together;
    const Index last = first + maps_together < maps ? first + maps_together : maps;
    const Index* const corner = job.corner + job.triangle[point] * 3;
    const R* const weight = static_cast<const R*>(job.weight) + point;
    const R a = weight[0], b = weight[points], c = weight[2 * points];
    for (Index map = first; map < last; ++map) {
      const R* const value = static_cast<const R*>(job.value) + map * job.values * 2;
      R* const to = static_cast<R*>(job.grid) + (map * points + point) * 2;
      for (int axis = 0; axis < 2; ++axis) {
        const R* const along = value + axis;
        const R sum = weighted_corners(along[corner[0] * 2], along[corner[1] * 2], along[corner[2] * 2], a, b, c);
        to[axis] = job.base ? sum + static_cast<const R*>(job.base)[point * 2 + axis] : sum;
      }
    }
  }
}

// partial: the gradient to the values. A lane adds up what is of one triangle; when one of the warp comes to another,
// all of them hand on what they have.
template <class R>
__global__ void piecewise_vjp(PiecewiseJob job) {
  const double* const weight = static_cast<const double*>(job.weight);
  const int lane = int(threadIdx.x % 32);
  Index held = -1, task = -1;
  double sum[8] = {};
  const auto hand_on = [&] {
    for_each_label(held, [&](Index label, bool mine) {
      double shared[8];
      for (int k = 0; k < 8; ++k) shared[k] = mine ? sum[k] : 0;
      const double total = warp_sum(lane, shared);
      const int corner = lane / 8, axis = lane / 4 % 2;
      if (lane % 4 == 0 && corner < 3)
        job.partial[(task * job.values + job.corner[label * 3 + corner]) * 2 + axis] += total;
      __syncwarp();  // another lane goes on with a corner that triangles share
    });
    for (int k = 0; k < 8; ++k) sum[k] = 0;
  };
  for_each_warp_point(job.parts, [&](const WarpPoint& w) {
    const Index triangle = w.present ? job.triangle[w.point] : held;
    if (w.task != task || __ballot_sync(all_lanes, triangle != held)) {
      hand_on();
      held = triangle;
      task = w.task;
    }
    if (!w.present) return;
    const R* const g = static_cast<const R*>(job.grid) + (w.map * job.parts.points + w.point) * 2;
    for (int v = 0; v < 3; ++v)
      for (int axis = 0; axis < 2; ++axis)
        sum[2 * v + axis] += double(g[axis]) * weight[v * job.parts.points + w.point];
  });
  hand_on();
}

}  // namespace pystn::PYSTN_LEVEL
