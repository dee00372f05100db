// Flows of velocities that are continuous and affine in each cell of [-1, 1] or of its square: CPAB. Everything is in
// double but what is stored.
#pragma once

#include <math.h>
#include <stdint.h>

#include "job.hpp"
#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

// What a task has: some points of one field.
struct FlowPart {
  int64_t field, point0, point1;

  FlowPart(const FlowJob& job, int64_t task) : field(task / job.chunks), point0(task % job.chunks * job.chunk_points) {
    point1 = point0 + job.chunk_points < job.points ? point0 + job.chunk_points : job.points;
  }
};

// The cell of a coordinate on an axis of so many, and the place in it, from 0 to 1: beyond the ends that in the
// outermost cell, continued. NaN is in the first.
template <class Int>
struct AlongCells {
  Int cell;
  double place;

  PYSTN_HD AlongCells(double x, int64_t count) {
    const double position = (x + 1) * (double(count) / 2), last = double(count - 1);
    const double above = position > 0 ? position : 0;
    cell = Int(above < last ? above : last);
    place = position - double(cell);
  }
};

// Equal rectangles, each cut by its diagonals into four triangles, and flows of equal steps: in one a point follows
// the velocity of the triangle that it starts in, p <- exp(A / steps) p. Points go together, one after the other
// through each part of a step, so that nothing waits for what is before it.
template <class R>
struct TriangleFlow {
  static constexpr int together = 64, matrix = 9;

  struct Pair {
    double x[together], y[together];
  };
  // Where points are before a step, in which triangle, and their tangents where there are any.
  struct Stop {
    Pair at;
    int32_t triangle[together];
  };
  struct TangentStop : Stop {
    Pair tangent;
  };

  static PYSTN_HD void find(const FlowJob& job, const Pair& at, int count, int32_t* triangle) {
    const int32_t columns = int32_t(job.cells[0]);
    for (int i = 0; i < count; ++i) {
      const AlongCells<int32_t> across(at.x[i], job.cells[0]), along(at.y[i], job.cells[1]);
      const double dx = across.place - 0.5, dy = along.place - 0.5;
      const int32_t side = fabs(dx) > fabs(dy) ? dx > 0 : 2 + (dy > 0);
      triangle[i] = (along.cell * columns + across.cell) * 4 + side;
    }
  }

  static PYSTN_HD void move(const double* steps, const int32_t* triangle, int count, Pair& at) {
    for (int i = 0; i < count; ++i) {
      const double* const m = steps + int64_t(triangle[i]) * matrix;
      const double x = at.x[i], y = at.y[i];
      at.x[i] = m[0] * x + m[1] * y + m[2];
      at.y[i] = m[3] * x + m[4] * y + m[5];
    }
  }
  // Of their tangents, before they are moved themselves.
  static PYSTN_HD void move_tangents(const double* steps, const double* d_steps, const int32_t* triangle, int count,
                                     const Pair& at, Pair& tangent) {
    for (int i = 0; i < count; ++i) {
      const double *const m = steps + int64_t(triangle[i]) * matrix, *const d = d_steps + int64_t(triangle[i]) * matrix;
      const double x = at.x[i], y = at.y[i], dx = tangent.x[i], dy = tangent.y[i];
      tangent.x[i] = d[0] * x + d[1] * y + d[2] + (m[0] * dx + m[1] * dy);
      tangent.y[i] = d[3] * x + d[4] * y + d[5] + (m[3] * dx + m[4] * dy);
    }
  }
  // The transpose of `move` for points: of what they are pulled by.
  static PYSTN_HD void pull(const double* steps, const int32_t* triangle, int count, Pair& pulled) {
    for (int i = 0; i < count; ++i) {
      const double* const m = steps + int64_t(triangle[i]) * matrix;
      const double x = pulled.x[i], y = pulled.y[i];
      pulled.x[i] = m[0] * x + m[3] * y;
      pulled.y[i] = m[1] * x + m[4] * y;
    }
  }
  // And its derivative.
  static PYSTN_HD void bend(const double* steps, const double* d_steps, const int32_t* triangle, int count,
                            const Pair& pulled, Pair& bent) {
    for (int i = 0; i < count; ++i) {
      const double *const m = steps + int64_t(triangle[i]) * matrix, *const d = d_steps + int64_t(triangle[i]) * matrix;
      const double x = pulled.x[i], y = pulled.y[i], dx = bent.x[i], dy = bent.y[i];
      bent.x[i] = m[0] * dx + m[3] * dy + (d[0] * x + d[3] * y);
      bent.y[i] = m[1] * dx + m[4] * dy + (d[1] * x + d[4] * y);
    }
  }

  // For every triangle, the sum of what its points give. Neighbours are mostly in one: their sum is kept in registers.
  template <int values, class Give>
  static PYSTN_HD void add_up(const int32_t* triangle, int count, double* to, Give&& give) {
    double sum[values] = {};
    for (int i = 0; i < count; ++i) {
      give(i, sum);
      if (i + 1 < count && triangle[i + 1] == triangle[i]) continue;
      double* const total = to + int64_t(triangle[i]) * matrix;
      for (int v = 0; v < values; ++v) {
        total[v] += sum[v];
        sum[v] = 0;
      }
    }
  }
  // Products with the points, (x, y, 1).
  static PYSTN_HD void add_products(const Stop& stop, int count, const Pair& pulled, double* to) {
    add_up<6>(stop.triangle, count, to, [&](int i, double* sum) {
      const double x = stop.at.x[i], y = stop.at.y[i];
      sum[0] += pulled.x[i] * x;
      sum[1] += pulled.x[i] * y;
      sum[2] += pulled.x[i];
      sum[3] += pulled.y[i] * x;
      sum[4] += pulled.y[i] * y;
      sum[5] += pulled.y[i];
    });
  }
  // And their derivative, with the tangents (dx, dy, 0).
  static PYSTN_HD void add_products_jvp(const TangentStop& stop, int count, const Pair& pulled, const Pair& bent,
                                        double* to) {
    add_up<6>(stop.triangle, count, to, [&](int i, double* sum) {
      const double x = stop.at.x[i], y = stop.at.y[i], dx = stop.tangent.x[i], dy = stop.tangent.y[i];
      sum[0] += bent.x[i] * x + pulled.x[i] * dx;
      sum[1] += bent.x[i] * y + pulled.x[i] * dy;
      sum[2] += bent.x[i];
      sum[3] += bent.y[i] * x + pulled.y[i] * dx;
      sum[4] += bent.y[i] * y + pulled.y[i] * dy;
      sum[5] += bent.y[i];
    });
  }

  static int64_t field_size(const FlowJob& job) { return job.cells[0] * job.cells[1] * 4 * matrix; }

  static PYSTN_HD R* grid_of(const FlowJob& job, const FlowPart& task, int64_t point) {
    return static_cast<R*>(job.grid) + (task.field * job.points + point) * 2;
  }
  template <class Part>
  static PYSTN_HD void for_each_part(const FlowJob& job, int64_t index, Part&& part) {
    const FlowPart task(job, index);
    for (int64_t point = task.point0; point < task.point1; point += together) {
      const int64_t left = task.point1 - point;
      const int count = left < together ? int(left) : together;
      Pair at;
      for (int i = 0; i < count; ++i) {
        at.x[i] = job.start[2 * (point + i)];
        at.y[i] = job.start[2 * (point + i) + 1];
      }
      part(task.field, grid_of(job, task, point), count, at);
    }
  }
  static PYSTN_HD void store(const Pair& from, int count, R* to) {
    for (int i = 0; i < count; ++i) {
      to[2 * i] = R(from.x[i]);
      to[2 * i + 1] = R(from.y[i]);
    }
  }
  static PYSTN_HD void load(const R* from, int count, Pair& to) {
    for (int i = 0; i < count; ++i) {
      to.x[i] = double(from[2 * i]);
      to.y[i] = double(from[2 * i + 1]);
    }
  }

  static void forward(const FlowJob& job, int64_t index, void*) {
    for_each_part(job, index, [&](int64_t field, R* grid, int count, Pair& at) {
      const double* const steps = job.field + field * field_size(job);
      int32_t triangle[together];
      for (int64_t step = 0; step < job.steps; ++step) {
        find(job, at, count, triangle);
        move(steps, triangle, count, at);
      }
      store(at, count, grid);
    });
  }

  static void jvp(const FlowJob& job, int64_t index, void*) {
    for_each_part(job, index, [&](int64_t field, R* grid, int count, Pair& at) {
      const double *const steps = job.field + field * field_size(job), *const d_steps =
                                                                           job.d_field + field * field_size(job);
      int32_t triangle[together];
      Pair tangent = {};
      for (int64_t step = 0; step < job.steps; ++step) {
        find(job, at, count, triangle);
        move_tangents(steps, d_steps, triangle, count, at, tangent);
        move(steps, triangle, count, at);
      }
      store(tangent, count, grid);
    });
  }

  // partial: the gradient to the steps of the triangles.
  static void vjp(const FlowJob& job, int64_t index, void* scratch) {
    Stop* const way = static_cast<Stop*>(scratch);
    double* const partial = job.partial + index * field_size(job);
    for_each_part(job, index, [&](int64_t field, const R* grid, int count, Pair& at) {
      const double* const steps = job.field + field * field_size(job);
      for (int64_t step = 0; step < job.steps; ++step) {
        find(job, at, count, way[step].triangle);
        way[step].at = at;
        move(steps, way[step].triangle, count, at);
      }
      Pair pulled;
      load(grid, count, pulled);
      for (int64_t step = job.steps; step-- > 0;) {
        add_products(way[step], count, pulled, partial);
        pull(steps, way[step].triangle, count, pulled);
      }
    });
  }

  // And d_partial: its derivative along the tangent of the steps.
  static void vjp2(const FlowJob& job, int64_t index, void* scratch) {
    TangentStop* const way = static_cast<TangentStop*>(scratch);
    double *const partial = job.partial + index * field_size(job), *const d_partial =
                                                                       job.d_partial + index * field_size(job);
    for_each_part(job, index, [&](int64_t field, const R* grid, int count, Pair& at) {
      const double *const steps = job.field + field * field_size(job), *const d_steps =
                                                                           job.d_field + field * field_size(job);
      Pair tangent = {};
      for (int64_t step = 0; step < job.steps; ++step) {
        find(job, at, count, way[step].triangle);
        way[step].at = at;
        way[step].tangent = tangent;
        move_tangents(steps, d_steps, way[step].triangle, count, at, tangent);
        move(steps, way[step].triangle, count, at);
      }
      Pair pulled, bent = {};
      load(grid, count, pulled);
      for (int64_t step = job.steps; step-- > 0;) {
        add_products(way[step], count, pulled, partial);
        add_products_jvp(way[step], count, pulled, bent, d_partial);
        bend(steps, d_steps, way[step].triangle, count, pulled, bent);
        pull(steps, way[step].triangle, count, pulled);
      }
    });
  }

  // Bytes of the way that the gradients keep.
  static int64_t scratch(const FlowJob& job) {
    return job.steps * int64_t(job.d_field ? sizeof(TangentStop) : sizeof(Stop));
  }
};

// (e^z - 1) / z and its derivatives. These cancel near 0; there their series, from that of 1 + z / 2! + z^2 / 3! ...
struct Growth {
  static constexpr int terms = 20;
  struct Series {
    double coefficient[terms];
  };
  // Differentiated so many times: the coefficient of z^k is (k + 1) ... (k + times) / (k + times + 1)!.
  static constexpr Series series(int times) {
    Series made{};
    double factorial = 1;
    for (int k = 2; k <= times + 1; ++k) factorial *= k;
    for (int k = 0; k < terms; ++k) {
      double value = 1 / factorial;
      for (int t = 1; t <= times; ++t) value *= k + t;
      made.coefficient[k] = value;
      factorial *= k + times + 2;
    }
    return made;
  }
  template <int times>
  static PYSTN_HD double near_zero(double z) {
    constexpr Series made = series(times);
    double sum = 0;
    for (int k = terms; k-- > 0;) sum = sum * z + made.coefficient[k];
    return sum;
  }

  static PYSTN_HD double value(double z) { return z == 0 ? 1 : expm1(z) / z; }
  static PYSTN_HD double slope(double z) { return fabs(z) < 1 ? near_zero<1>(z) : ((z - 1) * exp(z) + 1) / (z * z); }
  static PYSTN_HD double bend(double z) {
    return fabs(z) < 1 ? near_zero<2>(z) : ((z * (z - 2) + 2) * exp(z) - 2) / (z * z * z);
  }
};

// Equal intervals. Flows are exact: in a cell the velocity is a x + b, so that x moves by (a x + b) (e^{at} - 1) / a
// and arrives where the velocity is v' after log(v' / v) / a. Lengths are in cells, and so are velocities.
template <class R>
struct IntervalFlow {
  // A point's way through one cell.
  struct Segment {
    int64_t cell;
    double place;   // in it, on entry
    double time;    // spent in it
    double here;    // velocity on entry
    double slope;   // of the velocity
    double before;  // that in the cell it comes from; of the first, this one's
    double step;    // how far it goes
  };
  struct TangentSegment : Segment {
    double tangent;  // of the place on entry
  };

  static PYSTN_HD int sign(double v) { return (v > 0) - (v < 0); }

  // Calls `pass` with each segment of a point's way. It never turns round, and so crosses every cell at most once, as
  // `scratch` has room for:
  // what enters at the left does so at the velocity there, to the bit, and what enters at the right with another sign
  // than is there, by rounding, does not leave.
  template <class Pass>
  static PYSTN_HD void walk(const FlowJob& job, const double* velocity, double x, Pass&& pass) {
    const AlongCells<int64_t> first(x, job.cells[0]);
    Segment at;
    at.cell = first.cell;
    at.place = first.place;
    double time = 1;
    for (bool again = false;; again = true) {
      const double left = velocity[at.cell], right = velocity[at.cell + 1], slope = right - left;
      at.before = again ? at.slope : slope;
      at.slope = slope;
      at.here = left + slope * at.place;
      const bool onward = at.here > 0, has_next = onward ? at.cell < job.cells[0] - 1 : at.cell > 0;
      const double end = onward ? 1 : 0;
      at.time = time;
      bool leaves = false;
      if (has_next && at.here != 0 && sign(onward ? right : left) == sign(at.here)) {
        const double straight = (end - at.place) / at.here, z = slope * straight;  // the time at this velocity
        const double needed = straight * (z == 0 ? 1 : log1p(z) / z);
        leaves = needed < time;
        if (leaves) at.time = needed;
      }
      at.step = leaves ? end - at.place : at.here == 0 ? 0 : at.here * at.time * Growth::value(slope * at.time);
      pass(at);
      if (!leaves) return;
      at.cell += onward ? 1 : -1;
      at.place = 1 - end;
      time -= at.time;
    }
  }

  // Of the place at the end: to the place on entry, to the velocities at the left and the right. The time is held:
  // what enters one cell earlier leaves the other as much earlier, at the same velocity.
  struct Derivatives {
    double by_place, by_left, by_right;

    PYSTN_HD explicit Derivatives(const Segment& s) {
      const double z = s.slope * s.time, level = s.time * Growth::value(z);
      const double tilt = s.here == 0 ? 0 : s.here * s.time * s.time * Growth::slope(z);
      by_place = exp(z);
      by_left = level * (1 - s.place) - tilt;
      by_right = level * s.place + tilt;
    }
    // How they move with the place on entry and the velocities.
    PYSTN_HD Derivatives(const Segment& s, double d_place, double d_left, double d_right) {
      const double z = s.slope * s.time, d_slope = d_right - d_left, squared = s.time * s.time;
      const double d_here = (1 - s.place) * d_left + s.place * d_right + s.slope * d_place;
      const double d_level = squared * Growth::slope(z) * d_slope;
      const double bent = s.here == 0 ? 0 : s.here * squared * s.time * Growth::bend(z);
      const double d_tilt = d_here * squared * Growth::slope(z) + bent * d_slope;
      const double turned = d_place * s.time * Growth::value(z);
      by_place = exp(z) * s.time * d_slope;
      by_left = d_level * (1 - s.place) - turned - d_tilt;
      by_right = d_level * s.place + turned + d_tilt;
    }
  };

  static int64_t field_size(const FlowJob& job) { return job.cells[0] + 1; }

  template <class Point>
  static PYSTN_HD void for_each_point(const FlowJob& job, int64_t index, Point&& each) {
    const FlowPart task(job, index);
    R* const grid = static_cast<R*>(job.grid) + task.field * job.points;
    const double* const velocity = job.field + task.field * field_size(job);
    const double* const d_velocity = job.d_field ? job.d_field + task.field * field_size(job) : nullptr;
    for (int64_t point = task.point0; point < task.point1; ++point)
      each(job.start[point], velocity, d_velocity, grid[point]);
  }
  static PYSTN_HD double cell_length(const FlowJob& job) { return 2 / double(job.cells[0]); }

  // Calls `pass` with each segment and the tangent of the place on entry; returns that of the place at the end.
  template <class Pass>
  static PYSTN_HD double walk_tangents(const FlowJob& job, const double* velocity, const double* d_velocity, double x,
                                       Pass&& pass) {
    double tangent = 0;
    walk(job, velocity, x, [&](const Segment& s) {
      pass(s, tangent);
      const Derivatives d(s);
      tangent = d.by_place * tangent + d.by_left * d_velocity[s.cell] + d.by_right * d_velocity[s.cell + 1];
    });
    return tangent;
  }

  static void forward(const FlowJob& job, int64_t index, void*) {
    for_each_point(job, index, [&](double x, const double* velocity, const double*, R& to) {
      double moved = 0;
      walk(job, velocity, x, [&](const Segment& s) { moved += s.step; });
      to = R(x + cell_length(job) * moved);
    });
  }

  static void jvp(const FlowJob& job, int64_t index, void*) {
    for_each_point(job, index, [&](double x, const double* velocity, const double* d_velocity, R& to) {
      to = R(cell_length(job) * walk_tangents(job, velocity, d_velocity, x, [](const Segment&, double) {}));
    });
  }

  // partial: the gradient to the velocities.
  static void vjp(const FlowJob& job, int64_t index, void* scratch) {
    Segment* const way = static_cast<Segment*>(scratch);
    double* const partial = job.partial + index * field_size(job);
    for_each_point(job, index, [&](double x, const double* velocity, const double*, const R& from) {
      int64_t count = 0;
      walk(job, velocity, x, [&](const Segment& s) { way[count++] = s; });
      double pulled = cell_length(job) * double(from);
      while (count-- > 0) {
        const Segment& s = way[count];
        const Derivatives d(s);
        partial[s.cell] += d.by_left * pulled;
        partial[s.cell + 1] += d.by_right * pulled;
        pulled = d.by_place * pulled;
      }
    });
  }

  // And d_partial: its derivative along the tangent of the velocities.
  static void vjp2(const FlowJob& job, int64_t index, void* scratch) {
    TangentSegment* const way = static_cast<TangentSegment*>(scratch);
    double *const partial = job.partial + index * field_size(job), *const d_partial =
                                                                       job.d_partial + index * field_size(job);
    for_each_point(job, index, [&](double x, const double* velocity, const double* d_velocity, const R& from) {
      int64_t count = 0;
      walk_tangents(job, velocity, d_velocity, x, [&](const Segment& s, double tangent) {
        static_cast<Segment&>(way[count]) = s;
        way[count++].tangent = tangent;
      });
      double pulled = cell_length(job) * double(from), bent = 0;
      while (count-- > 0) {
        const TangentSegment& s = way[count];
        const Derivatives d(s), d_d(s, s.tangent, d_velocity[s.cell], d_velocity[s.cell + 1]);
        partial[s.cell] += d.by_left * pulled;
        partial[s.cell + 1] += d.by_right * pulled;
        d_partial[s.cell] += d.by_left * bent + d_d.by_left * pulled;
        d_partial[s.cell + 1] += d.by_right * bent + d_d.by_right * pulled;
        // What arrives earlier by a distance spends as much of the time at the new slope.
        const double kink = s.here == 0 ? 0 : (s.slope - s.before) / s.here;
        bent = d.by_place * bent + (d.by_place * kink * s.tangent + d_d.by_place) * pulled;
        pulled = d.by_place * pulled;
      }
    });
  }

  static int64_t scratch(const FlowJob& job) {
    return job.cells[0] * int64_t(job.d_field ? sizeof(TangentSegment) : sizeof(Segment));
  }
};

}  // namespace pystn::PYSTN_LEVEL
