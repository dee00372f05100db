// Flows of CPAB, some points of one field at a time. The gradients keep the way of a few points, and add up what a task
// gives in a field of its own.
#pragma once

#include <stdint.h>

#include "flows.hpp"
#include "job.hpp"
#include "point_range.hpp"

namespace pystn::PYSTN_LEVEL {

// What a task has.
struct FlowTaskPoints : PointRange {
  int64_t field;

  FlowTaskPoints(const FlowJob& job, int64_t task)
      : PointRange(job.parts, task % job.parts.count), field(task / job.parts.count) {}
};

// In two dimensions. Points go together, one after the other through each part of a step, so that nothing waits for
// what is before it.
template <class R>
struct TriangleFlow {
  static constexpr int together = 64;

  struct Points {
    double x[together], y[together];

    PYSTN_HD Point operator[](int i) const { return {x[i], y[i]}; }
    PYSTN_HD void set(int i, Point p) {
      x[i] = p.x;
      y[i] = p.y;
    }
  };
  // Where points are before a step, in which triangle, and their tangents where there are any.
  struct Stop {
    Points at;
    int32_t triangle[together];
  };
  struct TangentStop : Stop {
    Points tangent;
  };

  // The matrix of each triangle, and its tangent.
  struct Steps {
    const double *m, *d;

    Steps(const FlowJob& job, int64_t field)
        : m(job.field + field * field_size(job)), d(job.d_field ? job.d_field + field * field_size(job) : nullptr) {}

    static PYSTN_HD int64_t at(int32_t triangle) { return int64_t(triangle) * flow_matrix; }
  };

  static PYSTN_HD void find(const FlowJob& job, const Points& at, int count, int32_t* triangle) {
    for (int i = 0; i < count; ++i) triangle[i] = triangle_of<int32_t>(at[i], job.cells[0], job.cells[1]);
  }
  static PYSTN_HD void move(const Steps& steps, const int32_t* triangle, int count, Points& at) {
    for (int i = 0; i < count; ++i) at.set(i, moved(steps.m + Steps::at(triangle[i]), at[i]));
  }
  // Before the points are moved themselves.
  static PYSTN_HD void move_tangents(const Steps& steps, const int32_t* triangle, int count, const Points& at,
                                     Points& tangent) {
    for (int i = 0; i < count; ++i) {
      const int64_t step = Steps::at(triangle[i]);
      tangent.set(i, moved_tangent(steps.m + step, steps.d + step, at[i], tangent[i]));
    }
  }
  static PYSTN_HD void pull_back(const Steps& steps, const int32_t* triangle, int count, Points& pull) {
    for (int i = 0; i < count; ++i) pull.set(i, pulled_back(steps.m + Steps::at(triangle[i]), pull[i]));
  }
  static PYSTN_HD void bend_back(const Steps& steps, const int32_t* triangle, int count, const Points& pull,
                                 Points& bent) {
    for (int i = 0; i < count; ++i) {
      const int64_t step = Steps::at(triangle[i]);
      bent.set(i, bent_back(steps.m + step, steps.d + step, pull[i], bent[i]));
    }
  }

  // For every triangle, the sum of what its points give. Neighbours are mostly in one: their sum is kept in registers.
  template <class Give>
  static PYSTN_HD void add_up(const int32_t* triangle, int count, double* to, Give&& give) {
    double sum[flow_entries] = {};
    for (int i = 0; i < count; ++i) {
      give(i, sum);
      if (i + 1 < count && triangle[i + 1] == triangle[i]) continue;
      double* const total = to + Steps::at(triangle[i]);
      for (int v = 0; v < flow_entries; ++v) {
        total[v] += sum[v];
        sum[v] = 0;
      }
    }
  }

  static int64_t field_size(const FlowJob& job) { return job.cells[0] * job.cells[1] * 4 * flow_matrix; }

  template <class Part>
  static PYSTN_HD void for_each_part(const FlowJob& job, int64_t index, Part&& part) {
    const FlowTaskPoints task(job, index);
    const Steps steps(job, task.field);
    for (int64_t point = task.first; point < task.last; point += together) {
      const int64_t left = task.last - point;
      const int count = left < together ? int(left) : together;
      Points at;
      for (int i = 0; i < count; ++i) at.set(i, {job.start[2 * (point + i)], job.start[2 * (point + i) + 1]});
      part(steps, static_cast<R*>(job.grid) + (task.field * job.parts.points + point) * 2, count, at);
    }
  }
  static PYSTN_HD void store(const Points& from, int count, R* to) {
    for (int i = 0; i < count; ++i) {
      to[2 * i] = R(from.x[i]);
      to[2 * i + 1] = R(from.y[i]);
    }
  }
  static PYSTN_HD void load(const R* from, int count, Points& to) {
    for (int i = 0; i < count; ++i) to.set(i, {double(from[2 * i]), double(from[2 * i + 1])});
  }

  static void forward(const FlowJob& job, int64_t index, void*) {
    for_each_part(job, index, [&](const Steps& steps, R* grid, int count, Points& at) {
      int32_t triangle[together];
      for (int64_t step = 0; step < job.steps; ++step) {
        find(job, at, count, triangle);
        move(steps, triangle, count, at);
      }
      store(at, count, grid);
    });
  }

  static void jvp(const FlowJob& job, int64_t index, void*) {
    for_each_part(job, index, [&](const Steps& steps, R* grid, int count, Points& at) {
      int32_t triangle[together];
      Points tangent = {};
      for (int64_t step = 0; step < job.steps; ++step) {
        find(job, at, count, triangle);
        move_tangents(steps, triangle, count, at, tangent);
        move(steps, triangle, count, at);
      }
      store(tangent, count, grid);
    });
  }

  // partial: the gradient to the steps of the triangles.
  static void vjp(const FlowJob& job, int64_t index, void* scratch) {
    Stop* const way = static_cast<Stop*>(scratch);
    double* const partial = job.partial + index * field_size(job);
    for_each_part(job, index, [&](const Steps& steps, const R* grid, int count, Points& at) {
      for (int64_t step = 0; step < job.steps; ++step) {
        find(job, at, count, way[step].triangle);
        way[step].at = at;
        move(steps, way[step].triangle, count, at);
      }
      Points pull;
      load(grid, count, pull);
      for (int64_t step = job.steps; step-- > 0;) {
        const Stop& stop = way[step];
        add_up(stop.triangle, count, partial, [&](int i, double* sum) { add_products(stop.at[i], pull[i], sum); });
        pull_back(steps, stop.triangle, count, pull);
      }
    });
  }

  // And d_partial: its derivative along the tangent of the steps.
  static void vjp2(const FlowJob& job, int64_t index, void* scratch) {
    TangentStop* const way = static_cast<TangentStop*>(scratch);
    double* const partial = job.partial + index * field_size(job);
    double* const d_partial = job.d_partial + index * field_size(job);
    for_each_part(job, index, [&](const Steps& steps, const R* grid, int count, Points& at) {
      Points tangent = {};
      for (int64_t step = 0; step < job.steps; ++step) {
        find(job, at, count, way[step].triangle);
        way[step].at = at;
        way[step].tangent = tangent;
        move_tangents(steps, way[step].triangle, count, at, tangent);
        move(steps, way[step].triangle, count, at);
      }
      Points pull, bent = {};
      load(grid, count, pull);
      for (int64_t step = job.steps; step-- > 0;) {
        const TangentStop& stop = way[step];
        add_up(stop.triangle, count, partial, [&](int i, double* sum) { add_products(stop.at[i], pull[i], sum); });
        add_up(stop.triangle, count, d_partial,
               [&](int i, double* sum) { add_products_jvp(stop.at[i], stop.tangent[i], pull[i], bent[i], sum); });
        bend_back(steps, stop.triangle, count, pull, bent);
        pull_back(steps, stop.triangle, count, pull);
      }
    });
  }

  // Bytes of the way that the gradients keep.
  static int64_t scratch(const FlowJob& job) {
    return job.steps * int64_t(job.d_field ? sizeof(TangentStop) : sizeof(Stop));
  }
};

// In one dimension, a point after the other.
template <class R>
struct IntervalFlow {
  struct TangentSegment : Segment {
    double tangent;  // of the place on entry
  };

  static int64_t field_size(const FlowJob& job) { return job.cells[0] + 1; }
  static PYSTN_HD double cell_length(const FlowJob& job) { return 2 / double(job.cells[0]); }

  template <class Each>
  static PYSTN_HD void for_each_point(const FlowJob& job, int64_t index, Each&& each) {
    const FlowTaskPoints task(job, index);
    R* const grid = static_cast<R*>(job.grid) + task.field * job.parts.points;
    const double* const velocity = job.field + task.field * field_size(job);
    const double* const d_velocity = job.d_field ? job.d_field + task.field * field_size(job) : nullptr;
    for (int64_t point = task.first; point < task.last; ++point)
      each(job.start[point], velocity, d_velocity, grid[point]);
  }

  static void forward(const FlowJob& job, int64_t index, void*) {
    for_each_point(job, index, [&](double x, const double* velocity, const double*, R& to) {
      double far = 0;
      walk_cells(job.cells[0], velocity, x, [&](const Segment& s) { far += s.step; });
      to = R(x + cell_length(job) * far);
    });
  }

  static void jvp(const FlowJob& job, int64_t index, void*) {
    for_each_point(job, index, [&](double x, const double* velocity, const double* d_velocity, R& to) {
      const auto pass = [](const Segment&, double) {};
      to = R(cell_length(job) * walk_tangents(job.cells[0], velocity, d_velocity, x, pass));
    });
  }

  // partial: the gradient to the velocities.
  static void vjp(const FlowJob& job, int64_t index, void* scratch) {
    Segment* const way = static_cast<Segment*>(scratch);
    double* const partial = job.partial + index * field_size(job);
    for_each_point(job, index, [&](double x, const double* velocity, const double*, const R& from) {
      int64_t count = 0;
      walk_cells(job.cells[0], velocity, x, [&](const Segment& s) { way[count++] = s; });
      PullInCells pull(cell_length(job) * double(from));
      while (count-- > 0) {
        const Segment& s = way[count];
        pull.back(s);
        partial[s.cell] += pull.to_left;
        partial[s.cell + 1] += pull.to_right;
      }
    });
  }

  // And d_partial: its derivative along the tangent of the velocities.
  static void vjp2(const FlowJob& job, int64_t index, void* scratch) {
    TangentSegment* const way = static_cast<TangentSegment*>(scratch);
    double* const partial = job.partial + index * field_size(job);
    double* const d_partial = job.d_partial + index * field_size(job);
    for_each_point(job, index, [&](double x, const double* velocity, const double* d_velocity, const R& from) {
      int64_t count = 0;
      walk_tangents(job.cells[0], velocity, d_velocity, x, [&](const Segment& s, double tangent) {
        static_cast<Segment&>(way[count]) = s;
        way[count++].tangent = tangent;
      });
      PullInCells pull(cell_length(job) * double(from));
      while (count-- > 0) {
        const TangentSegment& s = way[count];
        pull.back(s, s.tangent, d_velocity);
        partial[s.cell] += pull.to_left;
        partial[s.cell + 1] += pull.to_right;
        d_partial[s.cell] += pull.d_to_left;
        d_partial[s.cell + 1] += pull.d_to_right;
      }
    });
  }

  static int64_t scratch(const FlowJob& job) {
    return job.cells[0] * int64_t(job.d_field ? sizeof(TangentSegment) : sizeof(Segment));
  }
};

}  // namespace pystn::PYSTN_LEVEL
