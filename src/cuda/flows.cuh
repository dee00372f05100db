// Flows of CPAB, a point in a thread. For the gradients a warp has some points of one field, whose way it keeps, 32 of
// them at a time; it adds up what they give in a field of its own.
#pragma once

#include "flows.hpp"
#include "threads.cuh"

namespace pystn::PYSTN_LEVEL {

struct FlowJob {
  const double* start;  // (points, ndim)
  // In one dimension velocities (M, cells + 1), in cells; in two a step of each triangle (M, triangles, 3, 3). Then
  // their tangent, or null.
  const double* field;
  const double* d_field;
  void* grid;  // (M, points, ndim); also the cotangent
  // (M, parts) and a field, set to 0: for the vjp, and what its derivative is added to.
  double* partial;
  double* d_partial;
  void* way;  // (warps, steps or cells, 32) of what is kept
  PointParts parts;
  Index steps;     // in two dimensions
  Index cells[2];  // x first
};

// ---- In two dimensions

struct TangentPoint {
  Point at, tangent;
};
template <bool twice>
struct Stop : TangentPoint {};
template <>
struct Stop<false> {
  Point at;
};

// The matrices of the triangles of a field.
struct FlowSteps {
  const double *m, *d;
  Index columns, rows;

  static PYSTN_HD Index size(const FlowJob& job) { return job.cells[0] * job.cells[1] * 4 * flow_matrix; }

  PYSTN_HD FlowSteps(const FlowJob& job, Index field)
      : m(job.field + field * size(job)),
        d(job.d_field ? job.d_field + field * size(job) : nullptr),
        columns(job.cells[0]),
        rows(job.cells[1]) {}

  PYSTN_HD Index triangle(Point p) const { return triangle_of<Index>(p, columns, rows); }

  template <bool tangents>
  PYSTN_HD void move(Point& at, Point& tangent) const {
    const Index step = triangle(at) * flow_matrix;
    if (tangents) tangent = moved_tangent(m + step, d + step, at, tangent);
    at = moved(m + step, at);
  }
};

// The grid, or its tangent.
template <class R, bool tangents>
__global__ void plane_flow(FlowJob job) {
  const Index points = job.parts.points, count = job.parts.maps * points;
  for (Index turn = first_turn(); turn < count; turn += turn_stride()) {
    const FlowSteps steps(job, turn / points);
    const double* const from = job.start + turn % points * 2;
    Point at = {from[0], from[1]}, tangent = {0, 0};
    for (Index step = 0; step < job.steps; ++step) steps.move<tangents>(at, tangent);
    R* const to = static_cast<R*>(job.grid) + turn * 2;
    to[0] = R(tangents ? tangent.x : at.x);
    to[1] = R(tangents ? tangent.y : at.y);
  }
}

// partial: the gradient to the steps of the triangles; twice: and d_partial, its derivative along their tangent.
template <class R, bool twice>
__global__ void plane_flow_vjp(FlowJob job) {
  Stop<twice>* const ways = static_cast<Stop<twice>*>(job.way) + first_warp() * job.steps * 32;
  for_each_warp_point(job.parts, [&](const WarpPoint& w) {
    const FlowSteps steps(job, w.map);
    Stop<twice>* const way = ways + w.lane;
    Point at = {0, 0}, tangent = {0, 0}, pull = {0, 0}, bent = {0, 0};
    if (w.present) {
      const R* const from = static_cast<const R*>(job.grid) + (w.map * job.parts.points + w.point) * 2;
      at = {job.start[w.point * 2], job.start[w.point * 2 + 1]};
      pull = {double(from[0]), double(from[1])};
    }
    for (Index step = 0; step < job.steps; ++step) {
      way[step * 32].at = at;
      if constexpr (twice) way[step * 32].tangent = tangent;
      steps.move<twice>(at, tangent);
    }
    for (Index step = job.steps; step-- > 0;) {
      const Stop<twice> stop = way[step * 32];
      const Index triangle = steps.triangle(stop.at), of_field = w.task * FlowSteps::size(job);
      for_each_label(w.present ? triangle : -1, [&](Index label, bool mine) {
        double sum[8] = {};
        if (mine) add_products(stop.at, pull, sum);
        add_warp_sum<flow_entries>(w.lane, sum, job.partial + of_field + label * flow_matrix);
        if constexpr (twice) {
          double d_sum[8] = {};
          if (mine) add_products_jvp(stop.at, stop.tangent, pull, bent, d_sum);
          add_warp_sum<flow_entries>(w.lane, d_sum, job.d_partial + of_field + label * flow_matrix);
        }
      });
      const double* const m = steps.m + triangle * flow_matrix;
      if constexpr (twice) bent = bent_back(m, steps.d + triangle * flow_matrix, pull, bent);
      pull = pulled_back(m, pull);
    }
  });
}

// ---- In one dimension

template <bool twice>
struct SegmentStop : Segment {
  double tangent;  // of the place on entry
};
template <>
struct SegmentStop<false> : Segment {};

PYSTN_HD Index vertices_of(const FlowJob& job) { return job.cells[0] + 1; }
PYSTN_HD double cell_length(const FlowJob& job) { return 2 / double(job.cells[0]); }

template <class R, bool tangents>
__global__ void line_flow(FlowJob job) {
  const Index points = job.parts.points, count = job.parts.maps * points;
  for (Index turn = first_turn(); turn < count; turn += turn_stride()) {
    const Index of_field = turn / points * vertices_of(job);
    const double x = job.start[turn % points];
    const double* const velocity = job.field + of_field;
    double value = 0;
    if constexpr (tangents) {
      const auto pass = [](const Segment&, double) {};
      value = cell_length(job) * walk_tangents(job.cells[0], velocity, job.d_field + of_field, x, pass);
    } else {
      walk_cells(job.cells[0], velocity, x, [&](const Segment& s) { value += s.step; });
      value = x + cell_length(job) * value;
    }
    static_cast<R*>(job.grid)[turn] = R(value);
  }
}

// partial: the gradient to the velocities; twice: and d_partial, its derivative along their tangent.
template <class R, bool twice>
__global__ void line_flow_vjp(FlowJob job) {
  SegmentStop<twice>* const ways = static_cast<SegmentStop<twice>*>(job.way) + first_warp() * job.cells[0] * 32;
  for_each_warp_point(job.parts, [&](const WarpPoint& w) {
    SegmentStop<twice>* const way = ways + w.lane;
    const Index of_field = w.map * vertices_of(job), of_task = w.task * vertices_of(job);
    const double* const velocity = job.field + of_field;
    Index count = 0;
    double at_end = 0;
    if (w.present) {
      const double x = job.start[w.point];
      at_end = cell_length(job) * double(static_cast<const R*>(job.grid)[w.map * job.parts.points + w.point]);
      const auto keep = [&](const Segment& s) { static_cast<Segment&>(way[count++ * 32]) = s; };
      if constexpr (twice) {
        walk_tangents(job.cells[0], velocity, job.d_field + of_field, x, [&](const Segment& s, double tangent) {
          way[count * 32].tangent = tangent;
          keep(s);
        });
      } else {
        walk_cells(job.cells[0], velocity, x, keep);
      }
    }
    PullInCells pull(at_end);
    while (__ballot_sync(all_lanes, count > 0)) {  // some lanes' ways are longer
      Index cell = -1;
      if (count-- > 0) {
        const SegmentStop<twice>& s = way[count * 32];
        cell = s.cell;
        if constexpr (twice)
          pull.back(s, s.tangent, job.d_field + of_field);
        else
          pull.back(s);
      }
      for_each_label(cell, [&](Index label, bool mine) {
        const double sum[2] = {mine ? pull.to_left : 0, mine ? pull.to_right : 0};
        add_warp_sum<2>(w.lane, sum, job.partial + of_task + label);
        if constexpr (twice) {
          const double d_sum[2] = {mine ? pull.d_to_left : 0, mine ? pull.d_to_right : 0};
          add_warp_sum<2>(w.lane, d_sum, job.d_partial + of_task + label);
        }
        __syncwarp();  // another lane goes on with the vertex that two cells share
      });
    }
  });
}

}  // namespace pystn::PYSTN_LEVEL
