// Flows of velocities that are continuous and affine in each cell of [-1, 1] or of its square: CPAB. What happens to
// one point, and to what pulls at it; everything is in double.
#pragma once

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

// The cell of a coordinate on an axis of so many, and the place in it, from 0 to 1: beyond the ends that in the
// outermost cell, continued. NaN is in the first.
template <class Int>
struct AlongCells {
  Int cell;
  double place;

  PYSTN_HD AlongCells(double x, Index count) {
    const double position = (x + 1) * (double(count) / 2), last = double(count - 1);
    const double above = position > 0 ? position : 0;
    cell = Int(above < last ? above : last);
    place = position - double(cell);
  }
};

// ---- In two dimensions: flows of equal steps, in one of which a point follows the velocity of the triangle that it
// starts in, p <- exp(A / steps) p. Matrices m, and their tangents d, are (3, 3), whose last row says nothing.

constexpr int flow_matrix = 9;

struct Point {
  double x, y;
};

// Equal rectangles, each cut by its diagonals into four triangles: left, right, towards low y, towards high y.
template <class Int>
PYSTN_HD Int triangle_of(Point p, Index columns, Index rows) {
  const AlongCells<Int> across(p.x, columns), along(p.y, rows);
  const double dx = across.place - 0.5, dy = along.place - 0.5;
  const int side = absolute(dx) > absolute(dy) ? dx > 0 : 2 + (dy > 0);
  return (along.cell * Int(columns) + across.cell) * 4 + Int(side);
}

PYSTN_HD Point moved(const double* m, Point p) {
  return {m[0] * p.x + m[1] * p.y + m[2], m[3] * p.x + m[4] * p.y + m[5]};
}
// The tangent of a point that is at p before the step.
PYSTN_HD Point moved_tangent(const double* m, const double* d, Point p, Point tangent) {
  return {d[0] * p.x + d[1] * p.y + d[2] + (m[0] * tangent.x + m[1] * tangent.y),
          d[3] * p.x + d[4] * p.y + d[5] + (m[3] * tangent.x + m[4] * tangent.y)};
}
// The transpose of `moved` for points: of what pulls after the step, what pulls before it.
PYSTN_HD Point pulled_back(const double* m, Point pull) {
  return {m[0] * pull.x + m[3] * pull.y, m[1] * pull.x + m[4] * pull.y};
}
// And its derivative: `bent` is that of the pull.
PYSTN_HD Point bent_back(const double* m, const double* d, Point pull, Point bent) {
  return {m[0] * bent.x + m[3] * bent.y + (d[0] * pull.x + d[3] * pull.y),
          m[1] * bent.x + m[4] * bent.y + (d[1] * pull.x + d[4] * pull.y)};
}

constexpr int flow_entries = 6;  // of a matrix, that say something

// Add what reaches a matrix: the products with the point, (x, y, 1).
PYSTN_HD void add_products(Point p, Point pull, double* sum) {
  sum[0] += pull.x * p.x;
  sum[1] += pull.x * p.y;
  sum[2] += pull.x;
  sum[3] += pull.y * p.x;
  sum[4] += pull.y * p.y;
  sum[5] += pull.y;
}
// And its derivative, with the tangent (dx, dy, 0).
PYSTN_HD void add_products_jvp(Point p, Point tangent, Point pull, Point bent, double* sum) {
  sum[0] += bent.x * p.x + pull.x * tangent.x;
  sum[1] += bent.x * p.y + pull.x * tangent.y;
  sum[2] += bent.x;
  sum[3] += bent.y * p.x + pull.y * tangent.x;
  sum[4] += bent.y * p.y + pull.y * tangent.y;
  sum[5] += bent.y;
}

// ---- In one dimension: equal intervals, and flows that are exact. In a cell the velocity is a x + b, so that x moves
// by (a x + b) (e^{at} - 1) / a and arrives where the velocity is v' after log(v' / v) / a. Lengths are in cells, and
// so are velocities, one for every vertex.

// (e^z - 1) / z and its derivatives. These cancel near 0; there their series, from that of 1 + z / 2! + z^2 / 3! ...
struct Growth {
  static constexpr int terms = 20;
  struct Series {
    double coefficient[terms];
  };
  // Differentiated so many times: the coefficient of z^k is (k + 1) ... (k + times) / (k + times + 1)!.
  static PYSTN_HD constexpr Series series(int times) {
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
    PYSTN_UNROLL
    for (int k = terms - 1; k >= 0; --k) sum = sum * z + made.coefficient[k];
    return sum;
  }

  static PYSTN_HD double value(double z) { return z == 0 ? 1 : ::expm1(z) / z; }
  static PYSTN_HD double slope(double z) {
    return absolute(z) < 1 ? near_zero<1>(z) : ((z - 1) * ::exp(z) + 1) / (z * z);
  }
  static PYSTN_HD double bend(double z) {
    return absolute(z) < 1 ? near_zero<2>(z) : ((z * (z - 2) + 2) * ::exp(z) - 2) / (z * z * z);
  }
};

// A point's way through one cell.
struct Segment {
  Index cell;
  double place;   // in it, on entry
  double time;    // spent in it
  double here;    // velocity on entry
  double slope;   // of the velocity
  double before;  // that in the cell it comes from; of the first, this one's
  double step;    // how far it goes
};

PYSTN_HD int sign_of(double v) { return (v > 0) - (v < 0); }

// Calls `pass` with each segment of a point's way. It never turns round, and so has no more of them than there are
// cells: what enters at the left does so at the velocity there, to the bit, and what enters at the right with another
// sign than is there, by rounding, does not leave.
template <class Pass>
PYSTN_HD void walk_cells(Index cells, const double* velocity, double x, Pass&& pass) {
  const AlongCells<Index> first(x, cells);
  Segment at;
  at.cell = first.cell;
  at.place = first.place;
  double time = 1;
  for (bool again = false;; again = true) {
    const double left = velocity[at.cell], right = velocity[at.cell + 1], slope = right - left;
    at.before = again ? at.slope : slope;
    at.slope = slope;
    at.here = left + slope * at.place;
    const bool onward = at.here > 0, has_next = onward ? at.cell < cells - 1 : at.cell > 0;
    const double end = onward ? 1 : 0;
    at.time = time;
    bool leaves = false;
    if (has_next && at.here != 0 && sign_of(onward ? right : left) == sign_of(at.here)) {
      const double straight = (end - at.place) / at.here, z = slope * straight;  // the time at this velocity
      const double needed = straight * (z == 0 ? 1 : ::log1p(z) / z);
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

// Of the place at the end of a segment: to the place on entry, to the velocities at the left and the right. The time is
// held: what enters one cell earlier leaves the other as much earlier, at the same velocity.
struct SegmentDerivatives {
  double by_place, by_left, by_right;

  PYSTN_HD explicit SegmentDerivatives(const Segment& s) {
    const double z = s.slope * s.time, level = s.time * Growth::value(z);
    const double tilt = s.here == 0 ? 0 : s.here * s.time * s.time * Growth::slope(z);
    by_place = ::exp(z);
    by_left = level * (1 - s.place) - tilt;
    by_right = level * s.place + tilt;
  }
  // How they move with the place on entry and the velocities.
  PYSTN_HD SegmentDerivatives(const Segment& s, double d_place, double d_left, double d_right) {
    const double z = s.slope * s.time, d_slope = d_right - d_left, squared = s.time * s.time;
    const double d_here = (1 - s.place) * d_left + s.place * d_right + s.slope * d_place;
    const double d_level = squared * Growth::slope(z) * d_slope;
    const double bent = s.here == 0 ? 0 : s.here * squared * s.time * Growth::bend(z);
    const double d_tilt = d_here * squared * Growth::slope(z) + bent * d_slope;
    const double turned = d_place * s.time * Growth::value(z);
    by_place = ::exp(z) * s.time * d_slope;
    by_left = d_level * (1 - s.place) - turned - d_tilt;
    by_right = d_level * s.place + turned + d_tilt;
  }
};

// Calls `pass` with each segment and the tangent of the place on entry; returns that of the place at the end.
template <class Pass>
PYSTN_HD double walk_tangents(Index cells, const double* velocity, const double* d_velocity, double x, Pass&& pass) {
  double tangent = 0;
  walk_cells(cells, velocity, x, [&](const Segment& s) {
    pass(s, tangent);
    const SegmentDerivatives d(s);
    tangent = d.by_place * tangent + d.by_left * d_velocity[s.cell] + d.by_right * d_velocity[s.cell + 1];
  });
  return tangent;
}

// What pulls at a point, and its derivative. Going back through a segment, what is given to the velocities at both of
// its ends.
struct PullInCells {
  double pull, bent = 0;
  double to_left = 0, to_right = 0, d_to_left = 0, d_to_right = 0;

  PYSTN_HD explicit PullInCells(double at_end) : pull(at_end) {}

  PYSTN_HD void back(const Segment& s) {
    const SegmentDerivatives d(s);
    to_left = d.by_left * pull;
    to_right = d.by_right * pull;
    pull = d.by_place * pull;
  }
  PYSTN_HD void back(const Segment& s, double d_place, const double* d_velocity) {
    const SegmentDerivatives d(s), d_d(s, d_place, d_velocity[s.cell], d_velocity[s.cell + 1]);
    to_left = d.by_left * pull;
    to_right = d.by_right * pull;
    d_to_left = d.by_left * bent + d_d.by_left * pull;
    d_to_right = d.by_right * bent + d_d.by_right * pull;
    // What arrives earlier by a distance spends as much of the time at the new slope.
    const double kink = s.here == 0 ? 0 : (s.slope - s.before) / s.here;
    bent = d.by_place * bent + (d.by_place * kink * d_place + d_d.by_place) * pull;
    pull = d.by_place * pull;
  }
};

}  // namespace pystn::PYSTN_LEVEL
