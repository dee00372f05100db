// Kernels stretched over a footprint in the source, for anti-aliased samples: one axis at a time by a scale, or an
// elliptical Gaussian by a covariance. All weights are divided by their sum over the whole support, so their
// derivatives are those of quotients.
//
// X is the arithmetic, a number or one with a tangent (dual.hpp): what is first order here is second order there.
// Positions are split, p = cell + f, and taps counted from the cell, so that no weight depends on where in the image
// it is. Axes that an image does not have are there with one tap, of weight 1.
#pragma once

#include "boundaries.hpp"
#include "dual.hpp"
#include "interpolation.hpp"

namespace pystn::PYSTN_LEVEL {

// A footprint reaches so many times the image's length, at most.
constexpr int widest_footprint = 4;

// ---- Kernels at one distance t, in their own unit: all 0 from `half` on

template <class R>
struct BoxAt {
  PYSTN_HD R half() const { return R(0.5); }
  PYSTN_HD KernelAt<R> operator()(R /*t*/) const { return {R(1), R(0), R(0)}; }  // its taps say where it ends
};

// Its slope jumps at its middle and at both ends.
template <class R>
struct TriangleAt {
  Subgradient rule;
  R tolerance;

  PYSTN_HD R half() const { return R(1); }
  PYSTN_HD KernelAt<R> operator()(R t) const {
    const R x = absolute(t), k = x < R(1) ? R(1) - x : R(0);
    R slope = t >= R(-1) && t < R(1) ? (t < R(0) ? R(1) : R(-1)) : R(0);
    if (rule != Subgradient::right) {
      if (x <= tolerance)
        slope = slope_at_kink(rule, R(1), R(-1));
      else if (absolute(x - R(1)) <= tolerance)
        slope = t < R(0) ? slope_at_kink(rule, R(0), R(1)) : slope_at_kink(rule, R(-1), R(0));
    }
    return {k, slope, R(0)};
  }
};

template <class R>
struct CubicAt {
  R a;

  PYSTN_HD R half() const { return R(2); }
  PYSTN_HD KernelAt<R> operator()(R t) const {
    if (absolute(t) > R(2)) return {R(0), R(0), R(0)};
    return keys_at(a, t, t >= R(-1) && t < R(1));
  }
};

template <class R>
struct BSplineAt {
  BSpline<R> spline;

  PYSTN_HD R half() const { return R(spline.taps) / R(2); }
  PYSTN_HD KernelAt<R> operator()(R t) const {
    R u, w[max_spline_order + 1], dw[max_spline_order + 1], d2w[max_spline_order + 1];
    const int k = (spline.taps - 1) / 2 - int(spline.place(t, u));
    if (k < 0 || k >= spline.taps) return {R(0), R(0), R(0)};
    spline.weights(u, w, dw, d2w);
    return {w[k], dw[k], d2w[k]};
  }
};

// sin(z) / z with its first two derivatives, from z and its sine and cosine.
template <class R>
PYSTN_HD void sinc_of(R z, R sine, R cosine, R& f, R& df, R& d2f) {
  if (absolute(z) < R(1)) {  // the series, where the closed forms cancel
    const R q = z * z;
    f = df = d2f = R(0);
    R term = R(1);  // (-1)^k z^(2k) / (2k + 1)!
    for (int k = 0; k < 11; ++k) {
      f += term;
      const R next = -term / R((2 * k + 2) * (2 * k + 3));  // of z^(2k + 2), without its q
      df += R(2 * k + 2) * next * z;
      d2f += R((2 * k + 2) * (2 * k + 1)) * next;
      term = next * q;
    }
  } else {
    f = sine / z;
    df = (cosine - f) / z;
    d2f = -(sine + R(2) * df) / z;
  }
}

template <class R>
struct LanczosAt {
  int lobes;

  PYSTN_HD R half() const { return R(lobes); }
  PYSTN_HD KernelAt<R> operator()(R t) const {
    const R one = R(Lanczos<R>::pi), slow = R(Lanczos<R>::pi / lobes);
    R f, df, d2f, g, dg, d2g;
    sinc_of(one * t, sin_of(one * t), cos_of(one * t), f, df, d2f);
    sinc_of(slow * t, sin_of(slow * t), cos_of(slow * t), g, dg, d2g);
    return {f * g, one * df * g + slow * f * dg,
            one * one * d2f * g + R(2) * one * slow * df * dg + slow * slow * f * d2g};
  }
};

template <class R>
struct GaussianAt {
  int taps;
  R sigma, nearest;  // the least |t|, which keeps the largest at 1, however narrow the kernel

  PYSTN_HD R half() const { return R(taps) / R(2); }
  PYSTN_HD KernelAt<R> operator()(R t) const {
    const R rate = R(-1) / (sigma * sigma), k = gaussian_at(sigma, t, nearest);
    return {k, rate * t * k, (rate * t * rate * t + rate) * k};
  }
};

template <class R>
struct TabulatedAt {
  Tabulated<R> table;

  PYSTN_HD R half() const { return table.support; }
  PYSTN_HD KernelAt<R> operator()(R t) const { return {table.value(t, 0), table.value(t, 1), table.value(t, 2)}; }
};

// Calls body(kernel); `tolerance` and `nearest` as TriangleAt and GaussianAt need them.
template <class R, class Body>
PYSTN_HD void with_kernel_at(const KernelChoice& choice, Subgradient rule, R tolerance, R nearest, Body&& body) {
  switch (choice.mode) {
    case Mode::nearest:
      return body(BoxAt<R>{});
    case Mode::linear:
      return body(TriangleAt<R>{rule, tolerance});
    case Mode::cubic:
      return body(CubicAt<R>{R(choice.parameter)});
    case Mode::bspline:
      return body(BSplineAt<R>{{choice.taps}});
    case Mode::lanczos:
      return body(LanczosAt<R>{choice.taps / 2});
    case Mode::gaussian:
      return body(GaussianAt<R>{choice.taps, R(choice.parameter), nearest});
    case Mode::tabulated:
      return body(TabulatedAt<R>{{choice.taps, R(choice.support), choice.table, choice.parameters}});
  }
}

// ---- Scales

// A weight, or a sum of weights, with its derivatives to the position and to the scale.
template <class X>
struct Stretched {
  X value, by_p, by_s;

  PYSTN_HD Stretched& operator+=(const Stretched& other) {
    value += other.value;
    by_p += other.by_p;
    by_s += other.by_s;
    return *this;
  }
};

// Where the taps of one axis are: `first` to `last`, counted from the cell.
template <class X>
struct StretchedAxis {
  using R = RealOf<X>;
  KernelChoice choice;
  Subgradient rule;
  R tolerance;  // in pixels
  R cell;
  X f, s;
  bool moves;  // with the scale, which is within its limits
  Index first, last;

  // Of a finite position and scale on an axis of n pixels; `slopes`: whether derivatives are asked for.
  PYSTN_HD void place(const KernelChoice& kernel, Subgradient subgradient, bool slopes, X p, X scale, Index n) {
    choice = kernel;
    rule = slopes ? subgradient : Subgradient::right;
    tolerance = lattice_tolerance<R>(rule, n);
    const R most = R(widest_footprint) * R(n), given = value_of(scale);
    moves = given >= R(1) && given <= most;
    s = moves ? scale : X(given < R(1) ? R(1) : most);
    cell = floor_of(value_of(p));
    f = p - X(cell);
    const R at = value_of(f);
    if (choice.mode == Mode::nearest && value_of(s) == R(1)) {
      const R p_value = value_of(p);
      first = last = Index((choice.variant ? floor_of(p_value + R(0.5)) : round_of(p_value)) - cell);
      return;
    }
    with_kernel([&](const auto& k) {
      const R reach = k.half() * value_of(s);
      first = Index(floor_of(at - reach)) + 1;
      last = Index(floor_of(at + reach));
    });
    if (choice.mode == Mode::linear && rule != Subgradient::right) {  // slopes that look the other way
      --first;
      ++last;
    }
  }

  template <class Body>
  PYSTN_HD void with_kernel(Body&& body) const {
    const R at = value_of(f), stretch = value_of(s);
    with_kernel_at<R>(choice, rule, tolerance / stretch, (at < R(0.5) ? at : R(1) - at) / stretch, body);
  }

  // Tap j, by its kernel, not yet divided by the sum.
  template <class Kernel>
  PYSTN_HD Stretched<X> tap(const Kernel& kernel, Index j) const {
    const X t = (f - X(R(j))) / s;
    const KernelAt<R> at = kernel(value_of(t));
    const X slope = along(t, at.k1, at.k2) / s;
    return {along(t, at.k, at.k1), slope, -slope * t};
  }

  // It divided by the sum of all, with the derivatives of the quotient.
  PYSTN_HD Stretched<X> weight(const Stretched<X>& tap, const Stretched<X>& sum) const {
    const X w = tap.value / sum.value;
    return {w, (tap.by_p - w * sum.by_p) / sum.value, moves ? (tap.by_s - w * sum.by_s) / sum.value : X(R(0))};
  }
};

// The cell near the image, to what its taps map to all the same, as an index.
template <class Map, class R>
PYSTN_HD Index reduced_cell(const Map& map, R cell, Index first, Index last, Index n) {
  constexpr R slack = R(128);
  if constexpr (Map::periodic)
    return Index(map.reduce(cell));
  else
    return Index(between(R(-last) - slack, cell, R(n - first) + slack));
}

template <class R>
PYSTN_HD Index reduced_cell(Boundary boundary, R cell, Index first, Index last, Index n) {
  Index reduced = 0;
  with_tap_boundary(boundary, n, [&](const auto& map) { reduced = reduced_cell(map, cell, first, last, n); });
  return reduced;
}

PYSTN_HD Index mapped(Boundary boundary, Index i, Index n) {
  Index to = i;
  if (i < 0 || i >= n) with_tap_boundary(boundary, n, [&](const auto& map) { to = map(i); });
  return to;
}

// A product of sums over the axes, with derivatives to positions and scales.
template <class X>
struct StretchedProduct {
  X value, by_p[3], by_s[3];

  explicit PYSTN_HD StretchedProduct(const Stretched<X>* sums) {
    value = sums[0].value * sums[1].value * sums[2].value;
    for (int a = 0; a < 3; ++a) {
      const X others = sums[(a + 1) % 3].value * sums[(a + 2) % 3].value;
      by_p[a] = sums[a].by_p * others;
      by_s[a] = sums[a].by_s * others;
    }
  }
};

// The share of the weights that reads the fill value, from what of each axis' weights is inside of the image.
template <class X>
PYSTN_HD StretchedProduct<X> stretched_outside(const Stretched<X>* inside, const bool* fills) {
  const X one(RealOf<X>(1)), zero(RealOf<X>(0));
  Stretched<X> all[3];
  for (int a = 0; a < 3; ++a) all[a] = fills[a] ? Stretched<X>{one, zero, zero} : inside[a];
  StretchedProduct<X> share(all);
  const StretchedProduct<X> in(inside);
  share.value -= in.value;
  for (int a = 0; a < 3; ++a) {
    share.by_p[a] -= in.by_p[a];
    share.by_s[a] -= in.by_s[a];
  }
  return share;
}

// ---- Covariances

// In the order of the axes a b = 00, 01, 02, 11, 12, 22.
constexpr int pairs = 6;
PYSTN_HD int pair_of(int a, int b) { return a == 0 || b == 0 ? a + b : a + b + 1; }

// The Gaussian of a covariance, cut at three standard deviations and lowered by what it is there:
// w = exp(-q/2) - exp(-9/2) while q < 9. With u = L d, L of unit diagonal and upper triangular, and the variances
// v of u, q = u_0^2 / v_0 + u_1^2 / v_1 + u_2^2 / v_2: all terms positive, so nothing cancels.
template <class X>
struct Ellipse {
  using R = RealOf<X>;
  static constexpr double radius = 3, square = radius * radius;
  static constexpr double lowest = 0.011108996538242306;  // exp(-square / 2)
  X f[3], by_y, by_z, y_by_z, rate[3];                    // u_x = d_x - by_y d_y - by_z d_z and so on; 1 / v
  R cell[3], spread[3];  // standard deviations along x given y and z, and along y given z
  Index first[3], last[3];
  bool moves;  // with the covariance, which is within its limits
  bool lone;   // no pixel centre is inside: the nearest pixel is read
  Index nearest[3];

  // Of finite positions and a covariance that is finite; whether it is positive definite. `n` are the image's lengths.
  template <class Precise>
  PYSTN_HD bool place(int ndim, const X* p, Precise (*S)[3], const Index* n) {
    moves = true;
    double reach[3] = {0, 0, 0};
    for (int a = 0; a < ndim; ++a) {
      if (!(value_of(S[a][a]) > 0)) return false;
      reach[a] = radius * ::sqrt(value_of(S[a][a]));
      const double most = double(widest_footprint) * double(n[a]);
      if (reach[a] <= most) continue;
      moves = false;
      for (int b = 0; b < ndim; ++b) {
        S[a][b] = S[a][b] * (most / reach[a]);
        S[b][a] = S[b][a] * (most / reach[a]);
      }
      reach[a] = most;
    }
    for (int a = 0; !moves && a < ndim; ++a)
      for (int b = 0; b < ndim; ++b) S[a][b] = Precise(value_of(S[a][b]));
    for (int a = 0; a < 3; ++a) {
      if (a >= ndim) S[a][a] = Precise(1.0);
      for (int b = ndim; b < 3; ++b)
        if (a != b) S[a][b] = S[b][a] = Precise(0.0);
    }
    const Precise l12 = S[1][2] / S[2][2], v1 = S[1][1] - l12 * S[1][2], x_with_u1 = S[0][1] - l12 * S[0][2];
    const Precise l01 = x_with_u1 / v1, x_with_z = S[0][2] / S[2][2];
    const Precise v0 = S[0][0] - x_with_z * S[0][2] - l01 * x_with_u1;
    if (!(value_of(v1) > 0) || !(value_of(v0) > 0)) return false;
    by_y = X(l01);
    by_z = X(x_with_z - l01 * l12);
    y_by_z = X(l12);
    rate[0] = X(Precise(1.0) / v0);
    rate[1] = X(Precise(1.0) / v1);
    rate[2] = X(Precise(1.0) / S[2][2]);
    spread[0] = R(::sqrt(value_of(v0)));
    spread[1] = R(::sqrt(value_of(v1)));
    for (int a = 0; a < 3; ++a) {
      cell[a] = a < ndim ? floor_of(value_of(p[a])) : R(0);
      f[a] = a < ndim ? p[a] - X(cell[a]) : X(R(0));
      const R at = value_of(f[a]);
      nearest[a] = at < R(0.5) ? 0 : 1;
      first[a] = a < ndim ? -Index(floor_of(R(reach[a]) - at)) : 0;
      last[a] = a < ndim ? Index(floor_of(R(reach[a]) + at)) : 0;
    }
    find_lone();
    return true;
  }

  PYSTN_HD X distance(int a, Index j) const { return X(R(j)) - f[a]; }

  // A row of taps along x: `rest` of q, and where u_x is 0.
  struct Row {
    X middle, rest;
    Index first, last;
  };
  PYSTN_HD bool row(Index y, Index z, Row& row) const {
    const X dy = distance(1, y), dz = distance(2, z), uy = dy - y_by_z * dz;
    row.middle = by_y * dy + by_z * dz;
    row.rest = uy * uy * rate[1] + dz * dz * rate[2];
    const R left = R(square) - value_of(row.rest);
    if (!(left > R(0))) return false;
    const R half = root_of(left) * spread[0], at = value_of(f[0]) + value_of(row.middle);
    const R low = R(first[0]), high = R(last[0]);
    row.first = Index(-floor_of(-between(low, at - half, high)));
    row.last = Index(floor_of(between(low, at + half, high)));
    // What is beyond the box of the ellipse was brought to its end, and may be outside.
    return at + half >= low && at - half <= high;
  }
  // q of a tap of a row at the distance dx.
  PYSTN_HD X square_of(const Row& row, X dx) const {
    const X u = dx - row.middle;
    return u * u * rate[0] + row.rest;
  }
  // exp(-q/2), of which the weight is what exceeds `lowest`.
  static PYSTN_HD X height(X q) {
    const R e = falling_exp<R>(R(-0.5) * value_of(q));
    return along(q, e, R(-0.5) * e);
  }
  static PYSTN_HD bool inside(X height) { return value_of(height) > R(lowest); }

  PYSTN_HD void find_lone() {
    Row at;
    lone = false;
    if (row(nearest[1], nearest[2], at) && value_of(square_of(at, distance(0, nearest[0]))) < R(0.99 * square)) return;
    for (Index z = first[2]; z <= last[2]; ++z)
      for (Index y = first[1]; y <= last[1]; ++y) {
        if (!row(y, z, at)) continue;
        for (Index x = at.first; x <= at.last; ++x)
          if (inside(height(square_of(at, distance(0, x))))) return;
      }
    lone = true;
    moves = false;
  }
};

// Sums over the taps of an ellipse: of w times some h, and of the slopes exp(-q/2) h with moments of d.
template <class X>
struct EllipseSums {
  X value, first[3], second[pairs];

  PYSTN_HD void clear() {
    value = X(RealOf<X>(0));
    for (int a = 0; a < 3; ++a) first[a] = value;
    for (int k = 0; k < pairs; ++k) second[k] = value;
  }
  // A part of a row at (dy, dz): its sums of w h, and of exp(-q/2) h with powers of dx.
  PYSTN_HD void add(X dy, X dz, X w, X m0, X m1, X m2) {
    value += w;
    first[0] += m1;
    first[1] += dy * m0;
    first[2] += dz * m0;
    second[0] += m2;
    second[1] += dy * m1;
    second[2] += dz * m1;
    second[3] += dy * dy * m0;
    second[4] += dy * dz * m0;
    second[5] += dz * dz * m0;
  }
};

// The derivatives of `sums.value / all.value`, with `all` of h = 1, to the position and to the covariance.
template <class X>
PYSTN_HD void ellipse_gradient(const Ellipse<X>& ellipse, const EllipseSums<X>& sums, const EllipseSums<X>& all,
                               X* by_p, X (*by_S)[3]) {
  using R = RealOf<X>;
  const X zero(R(0));
  if (ellipse.lone) {
    for (int a = 0; a < 3; ++a) {
      by_p[a] = zero;
      for (int b = 0; b < 3; ++b) by_S[a][b] = zero;
    }
    return;
  }
  // Sigma^-1 = sum over the rows of L of their squares, over their variances.
  const X one(R(1));
  const X L[3][3] = {{one, -ellipse.by_y, -ellipse.by_z}, {zero, one, -ellipse.y_by_z}, {zero, zero, one}};
  X inverse[3][3], first[3], half[3][3];
  for (int a = 0; a < 3; ++a)
    for (int b = 0; b < 3; ++b) {
      inverse[a][b] = zero;
      for (int k = 0; k < 3; ++k) inverse[a][b] += L[k][a] * L[k][b] * ellipse.rate[k];
    }
  const X value = sums.value / all.value;
  for (int a = 0; a < 3; ++a) first[a] = (sums.first[a] - value * all.first[a]) / all.value;
  for (int a = 0; a < 3; ++a) {
    by_p[a] = zero;
    for (int b = 0; b < 3; ++b) {
      by_p[a] += inverse[a][b] * first[b];
      half[a][b] = zero;
      for (int k = 0; k < 3; ++k) {
        const int m = pair_of(k, b);
        half[a][b] += inverse[a][k] * ((sums.second[m] - value * all.second[m]) / all.value);
      }
    }
  }
  for (int a = 0; a < 3; ++a)
    for (int b = 0; b < 3; ++b) {
      by_S[a][b] = zero;
      for (int k = 0; k < 3; ++k) by_S[a][b] += half[a][k] * inverse[k][b] * R(0.5);
    }
  for (int a = 0; a < 3; ++a)
    for (int b = 0; b < 3; ++b)
      if (!ellipse.moves)
        by_S[a][b] = zero;
      else if (b < a)
        by_S[a][b] = by_S[b][a];
}

}  // namespace pystn::PYSTN_LEVEL
