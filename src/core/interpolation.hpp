// Interpolation kernels on one axis. Of a position p in pixels a kernel says which cell it lies in,
// and from t = p - cell the weights w of its taps with w' and w'' their derivatives to p:
//
//   R place(R p, R& t)                       the cell, a whole number; t, from it to p
//   void weights(R t, R* w, R* dw, R* d2w)   the weights and their derivatives
//
// where d2w may be null, or both derivatives, and of a kernel that `takes_lanes` t and the weights may be vectors: X in
// the place of R (lanes.hpp).
//
// S taps start at cell - (S - 1) / 2. Kernels that `fold` have at most two taps of any weight, and
// have the boundary fold the coordinate (boundaries.hpp). A kernel with parameters Phi adds
//
//   void pull(R t, const R* by_weight, double* grad)       grad += (dw/dPhi)^T by_weight
//   void push(R t, const double* d_parameters, R* d_w)     d_w = dw/dPhi d_parameters
//
// A new kernel is one struct here, a case in with_kernel below, and a class in interpolation.py.
#pragma once

#include "lanes.hpp"

namespace pystn::PYSTN_LEVEL {

enum class Subgradient : int { right = 0, left = 1, central = 2, zero = 3 };

constexpr int max_taps = 64;
constexpr int max_spline_order = 7;

// How close to a pixel centre counts as being on it, for the subgradients that are two-sided:
// coordinates of the identity grid are centres up to rounding.
template <class R>
PYSTN_HD R rounding_of_positions(Index n) {
  return R(8) * Limits<R>::epsilon * R(n);
}

template <class R>
PYSTN_HD R lattice_tolerance(Subgradient rule, Index n) {
  const bool two_sided = rule == Subgradient::central || rule == Subgradient::zero;
  return two_sided ? rounding_of_positions<R>(n) : R(0);
}

// The cell that p lies in, for an even number of taps; and the nearest centre, for an odd one.
template <class R>
PYSTN_HD R cell_of(R p, int taps, R& t) {
  const R cell = taps % 2 ? floor_of(p + R(0.5)) : floor_of(p);
  t = p - cell;
  return cell;
}

// Distance from tap k to p.
template <class R, class X>
PYSTN_HD X distance_of(X t, int taps, int k) {
  return t + R((taps - 1) / 2 - k);
}

// A function of the distance, with its first two derivatives.
template <class R>
struct KernelAt {
  R k, k1, k2;
};

// What a slope that jumps from `left` to `right` is where it does.
template <class R>
PYSTN_HD R slope_at_kink(Subgradient rule, R left, R right) {
  if (rule == Subgradient::right) return right;
  return rule == Subgradient::left ? left : rule == Subgradient::central ? (left + right) / R(2) : R(0);
}

// The nearest pixel, ties to the even one or up.
template <class R>
struct Nearest {
  static constexpr bool folds = true, takes_lanes = false;
  static constexpr int taps = 1;
  bool ties_up;

  PYSTN_HD R place(R p, R& t) const {
    const R cell = ties_up ? floor_of(p + R(0.5)) : round_of(p);
    t = p - cell;
    return cell;
  }
  PYSTN_HD void weights(R /*t*/, R* w, R* dw, R* d2w) const {
    w[0] = R(1);
    if (dw) dw[0] = R(0);
    if (d2w) d2w[0] = R(0);
  }
};

// max(0, 1 - |d|) on the cell [floor(p), floor(p) + 1): right-hand slopes.
template <class R>
struct Linear {
  static constexpr bool folds = true, takes_lanes = false;
  static constexpr int taps = 2;

  PYSTN_HD R place(R p, R& t) const {
    const R cell = floor_of(p);
    t = p - cell;
    return cell;
  }
  PYSTN_HD void weights(R t, R* w, R* dw, R* d2w) const {
    w[0] = R(1) - t;
    w[1] = t;
    if (dw) {
      dw[0] = R(-1);
      dw[1] = R(1);
    }
    if (d2w) d2w[0] = d2w[1] = R(0);
  }
};

// The same weights over three taps, for slopes that look to the left of a pixel centre, where the
// linear kernel has a kink. One tap at least is idle, of weight and slope 0.
template <class R>
struct LinearWithSlope {
  static constexpr bool folds = true, takes_lanes = false;
  static constexpr int taps = 3;
  Subgradient rule;
  R tolerance;

  PYSTN_HD R place(R p, R& t) const {
    const R nearest = round_of(p);
    const R cell = absolute(p - nearest) <= tolerance ? nearest : floor_of(p);
    t = p - cell;
    return cell;
  }
  PYSTN_HD void weights(R t, R* w, R* dw, R* d2w) const {
    const R left = t < R(0) ? -t : R(0), right = t > R(0) ? t : R(0);
    w[0] = left;
    w[1] = R(1) - (left + right);
    w[2] = right;
    if (d2w) d2w[0] = d2w[1] = d2w[2] = R(0);
    if (!dw) return;
    const bool kink = absolute(t) <= tolerance;  // else within a cell
    dw[0] = kink ? slope_at_kink(rule, R(-1), R(0)) : R(0);
    dw[1] = kink ? slope_at_kink(rule, R(1), R(-1)) : R(-1);
    dw[2] = kink ? slope_at_kink(rule, R(0), R(1)) : R(1);
  }
};

// Keys' cubic convolution (1981) with parameter a, within a pixel of its middle or in the second one.
template <class R, class X>
PYSTN_HD KernelAt<X> keys_at(R a, X d, bool inner) {
  const X x = d < R(0) ? -d : d, sign = d < R(0) ? spread<X>(R(-1)) : spread<X>(R(1));
  if (inner)
    return {((a + R(2)) * x - (a + R(3))) * x * x + R(1), sign * (R(3) * (a + R(2)) * x - R(2) * (a + R(3))) * x,
            R(6) * (a + R(2)) * x - R(2) * (a + R(3))};
  return {a * (((x - R(5)) * x + R(8)) * x - R(4)), sign * a * ((R(3) * x - R(10)) * x + R(8)), a * (R(6) * x - R(10))};
}

template <class R>
struct Cubic {
  static constexpr bool folds = false, takes_lanes = true;
  static constexpr int taps = 4;
  R a;

  PYSTN_HD R place(R p, R& t) const { return cell_of(p, taps, t); }
  template <class X>
  PYSTN_HD void weights(X t, X* w, X* dw, X* d2w) const {
    PYSTN_UNROLL
    for (int k = 0; k < 4; ++k) {
      const KernelAt<X> at = keys_at(a, distance_of<R>(t, 4, k), k == 1 || k == 2);
      w[k] = at.k;
      if (dw) dw[k] = at.k1;
      if (d2w) d2w[k] = at.k2;
    }
  }
  static PYSTN_HD void by_a(R t, R* w) {
    for (int k = 0; k < 4; ++k) {
      const R x = absolute(distance_of<R>(t, 4, k));
      w[k] = k == 1 || k == 2 ? (x - R(1)) * x * x : ((x - R(5)) * x + R(8)) * x - R(4);
    }
  }
  PYSTN_HD void pull(R t, const R* by_weight, double* grad) const {
    R w[4];
    by_a(t, w);
    for (int k = 0; k < 4; ++k) grad[0] += double(by_weight[k]) * double(w[k]);
  }
  PYSTN_HD void push(R t, const double* d_parameters, R* d_w) const {
    by_a(t, d_w);
    for (int k = 0; k < 4; ++k) d_w[k] *= R(d_parameters[0]);
  }
};

// The centred B-spline of an order from 2 on, by the recurrence of Cox and de Boor on one cell:
// b(m, j) = ((u + m - j) b(m - 1, j - 1) + (1 - u + j) b(m - 1, j)) / m,  b(m, j)' = the difference.
template <class R>
struct BSpline {
  static constexpr bool folds = false, takes_lanes = true;
  int taps;  // order + 1

  PYSTN_HD R place(R p, R& t) const { return cell_of(p, taps, t); }
  template <class X>
  PYSTN_HD void weights(X t, X* w, X* dw, X* d2w) const {
    const int order = taps - 1;
    const X u = taps % 2 ? t + R(0.5) : t;
    w[0] = spread<X>(R(1));
    for (int m = 1; m <= order; ++m) {
      if (dw && m == order) {
        dw[0] = -w[0];
        for (int j = 1; j < m; ++j) dw[j] = w[j - 1] - w[j];
        dw[m] = w[m - 1];
      }
      if (d2w && m == order - 1) {  // two differences of m weights
        X before = {}, last = {};
        for (int j = 0; j <= m + 1; ++j) {
          const X here = j < m ? w[j] : X{};
          d2w[j] = before - R(2) * last + here;
          before = last;
          last = here;
        }
      }
      const R share = R(1) / R(m);
      w[m] = u * w[m - 1] * share;
      for (int j = m - 1; j > 0; --j) w[j] = ((u + R(m - j)) * w[j - 1] + (R(1 + j) - u) * w[j]) * share;
      w[0] = (R(1) - u) * w[0] * share;
    }
  }
};

// sinc(d) sinc(d / a), windowed to a lobes, divided by the sum over its taps.
//
// Let q be the distance to the nearest tap, and d = q + m. All is divided by the nearest tap's value, before that by
// the sum: then sin(pi d) / (pi d) becomes (-1)^m q / d, and sin(pi d / a) / (pi d / a) becomes (q cos(pi m / a) + K
// sin(pi m / a)) / d with K = q cot(pi q / a). Nothing is left but cotangents near 0.
template <class R>
struct Lanczos {
  static constexpr bool folds = false, takes_lanes = true;
  static constexpr double pi = 3.14159265358979323846;
  static constexpr int most = 4;                 // lobes
  int taps;                                      // 2 a
  R cosines[2 * most + 1], sines[2 * most + 1];  // (-1)^m times those of pi m / a, for m from -a to a

  explicit PYSTN_HD Lanczos(int a) : taps(2 * a) {
    for (int i = 0; i <= taps; ++i) {
      const int m = i - a, sign = m % 2 ? -1 : 1;
      cosines[i] = R(sign * cosine_of(m * (12 / a)));
      sines[i] = R(sign * cosine_of(m * (12 / a) - 6));
    }
  }
  // Of twelfths of pi, those that a half, a third and a quarter are multiples of.
  static PYSTN_HD double cosine_of(int n) {
    n = n < 0 ? -n : n;
    const int from_end = n > 6 ? (n > 12 ? n - 12 : 12 - n) : n;
    const double cosine = from_end == 0   ? 1
                          : from_end == 2 ? 0.86602540378443864676
                          : from_end == 3 ? 0.70710678118654752440
                          : from_end == 4 ? 0.5
                                          : 0;
    return n > 6 ? -cosine : cosine;
  }

  PYSTN_HD R place(R p, R& t) const { return cell_of(p, taps, t); }

  // Of tap k: what is the nearest tap's where it is that one.
  template <class Flags, class X>
  PYSTN_HD X choose(int k, Flags left, X nearest, X other) const {
    const int a = taps / 2;
    return k == a - 1 ? (left ? nearest : other) : k == a ? (left ? other : nearest) : other;
  }

  template <class X>
  PYSTN_HD void weights(X t, X* w, X* dw, X* d2w) const {
    const int a = taps / 2;
    const R slow = R(pi / a), fast2 = R(pi * pi), slow2 = R(pi * pi / (a * a));
    const auto left = t < R(0.5);  // the nearest tap is the one there
    const X q = left ? t : t - R(1), one = spread<X>(R(1));
    const X slow_rest = cotangent_rest<R>(slow2 * (q * q)), K = (one - slow2 * (q * q) * slow_rest) / slow;
    X fast_rest = {}, T = {};  // T = pi q cot(pi q)
    if (dw || d2w) {
      fast_rest = cotangent_rest<R>(fast2 * (q * q));
      T = one - fast2 * (q * q) * fast_rest;
    }
    X sum = {}, sum1 = {}, sum2 = {};
    for (int k = 0; k < taps; ++k) {
      const X C = left ? spread<X>(cosines[taps - 1 - k]) : spread<X>(cosines[taps - k]);
      const X S = left ? spread<X>(sines[taps - 1 - k]) : spread<X>(sines[taps - k]);
      const X by_d = one / choose(k, left, one, distance_of<R>(t, taps, k));
      const X f = choose(k, left, one, q * by_d), g = choose(k, left, one, (q * C + K * S) * by_d);
      w[k] = f * g;
      sum += w[k];
      if (!dw && !d2w) continue;
      const X f1 = choose(k, left, -fast2 * q * fast_rest, (T - f) * by_d);
      const X g1 = choose(k, left, -slow2 * q * slow_rest, (slow * (K * C - q * S) - g) * by_d);
      const X k1 = f1 * g + f * g1;
      sum1 += k1;
      if (dw) dw[k] = k1;
      if (!d2w) continue;
      const X f2 = choose(k, left, fast2 * (R(2) * fast_rest - one), -(fast2 * f + R(2) * f1 * by_d));
      const X g2 = choose(k, left, slow2 * (R(2) * slow_rest - one), -(slow2 * g + R(2) * g1 * by_d));
      d2w[k] = f2 * g + R(2) * f1 * g1 + f * g2;
      sum2 += d2w[k];
    }
    // (k / N)' = (k' - w N') / N, and once more.
    const X by_sum = one / sum;
    for (int k = 0; k < taps; ++k) {
      w[k] *= by_sum;
      if (dw) dw[k] = (dw[k] - w[k] * sum1) * by_sum;
      if (d2w) d2w[k] = (d2w[k] - R(2) * dw[k] * sum1 - w[k] * sum2) * by_sum;
    }
  }
};

// exp(-d^2 / (2 sigma^2)), times what makes it 1 at the distance `nearest`, however narrow the kernel.
template <class R, class X>
PYSTN_HD X gaussian_at(R sigma, X d, X nearest) {
  return falling_exp<R>(R(-0.5) / (sigma * sigma) * (d - nearest) * (d + nearest));
}

// The same divided by the sum over its taps.
template <class R>
struct Gaussian {
  static constexpr bool folds = false, takes_lanes = true;
  int taps;
  R sigma;

  PYSTN_HD R place(R p, R& t) const { return cell_of(p, taps, t); }
  // Weights, and the mean of d over them.
  template <class X>
  PYSTN_HD X normalized(X t, X* w) const {
    const X nearest = t < R(0.5) ? t : R(1) - t;
    X sum = {}, mean = {};
    for (int k = 0; k < taps; ++k) {
      w[k] = gaussian_at(sigma, distance_of<R>(t, taps, k), nearest);
      sum += w[k];
    }
    const X by_sum = R(1) / sum;
    for (int k = 0; k < taps; ++k) {
      w[k] *= by_sum;
      mean += w[k] * distance_of<R>(t, taps, k);
    }
    return mean;
  }
  template <class X>
  PYSTN_HD void weights(X t, X* w, X* dw, X* d2w) const {
    const X mean = normalized(t, w);
    const R rate = R(-1) / (sigma * sigma);
    if (!dw && !d2w) return;
    X variance = {};
    for (int k = 0; k < taps; ++k) {
      const X d = distance_of<R>(t, taps, k) - mean;
      variance += w[k] * d * d;
    }
    // w' = w (s - <s>) with s = rate d the slope of the logarithm, and w'' = w ((s - <s>)^2 - var s).
    for (int k = 0; k < taps; ++k) {
      const X d = distance_of<R>(t, taps, k) - mean;
      if (dw) dw[k] = w[k] * rate * d;
      if (d2w) d2w[k] = w[k] * rate * rate * (d * d - variance);
    }
  }
  PYSTN_HD void by_sigma(R t, R* w) const {
    normalized(t, w);
    const R cube = sigma * sigma * sigma;
    R mean = R(0);
    for (int k = 0; k < taps; ++k) {
      const R d = distance_of<R>(t, taps, k);
      mean += w[k] * d * d;
    }
    for (int k = 0; k < taps; ++k) {
      const R d = distance_of<R>(t, taps, k);
      w[k] *= (d * d - mean) / cube;
    }
  }
  PYSTN_HD void pull(R t, const R* by_weight, double* grad) const {
    R w[max_taps];
    by_sigma(t, w);
    for (int k = 0; k < taps; ++k) grad[0] += double(by_weight[k]) * double(w[k]);
  }
  PYSTN_HD void push(R t, const double* d_parameters, R* d_w) const {
    by_sigma(t, d_w);
    for (int k = 0; k < taps; ++k) d_w[k] *= R(d_parameters[0]);
  }
};

// A kernel given by a table of its values at `size` equidistant points from -support to support:
// cubic Hermite interpolation between them, with slopes of central differences, 0 at both ends.
template <class R>
struct Tabulated {
  static constexpr bool folds = false, takes_lanes = false;
  int taps;
  R support;
  const double* table;
  Index size;

  // Interval of the table and the four basis functions of its Hermite cubic, or their derivatives.
  struct Basis {
    Index j;
    R value[2], slope[2];
  };
  PYSTN_HD R step() const { return R(2) * support / R(size - 1); }
  PYSTN_HD bool find(R d, int derivative, Basis& basis) const {
    if (!(absolute(d) < support)) return false;
    const R h = step(), s = (d + support) / h;
    R cell = floor_of(s);
    cell = between_table(cell);
    const R u = s - cell;
    basis.j = Index(cell);
    if (derivative == 0) {
      basis.value[0] = (R(1) + R(2) * u) * (R(1) - u) * (R(1) - u);
      basis.value[1] = u * u * (R(3) - R(2) * u);
      basis.slope[0] = u * (R(1) - u) * (R(1) - u) * h;
      basis.slope[1] = u * u * (u - R(1)) * h;
    } else if (derivative == 1) {
      basis.value[1] = R(6) * u * (R(1) - u) / h;
      basis.value[0] = -basis.value[1];
      basis.slope[0] = (R(1) - u) * (R(1) - R(3) * u);
      basis.slope[1] = u * (R(3) * u - R(2));
    } else {
      basis.value[1] = (R(6) - R(12) * u) / (h * h);
      basis.value[0] = -basis.value[1];
      basis.slope[0] = (R(6) * u - R(4)) / h;
      basis.slope[1] = (R(6) * u - R(2)) / h;
    }
    return true;
  }
  PYSTN_HD R between_table(R cell) const {
    const R last = R(size - 2);
    cell = cell < last ? cell : last;
    return cell > R(0) ? cell : R(0);
  }
  // Calls body(table entry, its share) for the up to four entries that a weight is made of.
  template <class Body>
  PYSTN_HD void entries(R d, int derivative, Body&& body) const {
    Basis basis;
    if (!find(d, derivative, basis)) return;
    const R half = R(0.5) / step();
    for (int e = 0; e < 2; ++e) {
      const Index j = basis.j + e;
      body(j, basis.value[e]);
      if (j > 0 && j < size - 1) {
        body(j + 1, basis.slope[e] * half);
        body(j - 1, -basis.slope[e] * half);
      }
    }
  }
  PYSTN_HD R value(R d, int derivative) const {
    R sum = R(0);
    entries(d, derivative, [&](Index j, R share) { sum += R(table[j]) * share; });
    return sum;
  }
  PYSTN_HD R place(R p, R& t) const { return cell_of(p, taps, t); }
  PYSTN_HD void weights(R t, R* w, R* dw, R* d2w) const {
    for (int k = 0; k < taps; ++k) {
      const R d = distance_of<R>(t, taps, k);
      w[k] = value(d, 0);
      if (dw) dw[k] = value(d, 1);
      if (d2w) d2w[k] = value(d, 2);
    }
  }
  PYSTN_HD void pull(R t, const R* by_weight, double* grad) const {
    for (int k = 0; k < taps; ++k)
      entries(distance_of<R>(t, taps, k), 0,
              [&](Index j, R share) { grad[j] += double(by_weight[k]) * double(share); });
  }
  PYSTN_HD void push(R t, const double* d_parameters, R* d_w) const {
    for (int k = 0; k < taps; ++k) {
      d_w[k] = R(0);
      entries(distance_of<R>(t, taps, k), 0, [&](Index j, R share) { d_w[k] += R(d_parameters[j]) * share; });
    }
  }
};

enum class Mode : int { nearest = 0, linear = 1, cubic = 2, bspline = 3, lanczos = 4, gaussian = 5, tabulated = 6 };

// A kernel as the options describe it; `parameter` is a or sigma, `variant` the way of ties.
struct KernelChoice {
  Mode mode;
  int taps;
  int variant;
  double parameter, support;
  const double* table;
  Index parameters;  // how many are differentiable: 0, 1, or the table's length
};

// Calls body(kernel) with the kernel of a choice; `slopes` as linear needs them, to the right or not.
template <class R, class Body>
PYSTN_HD void with_kernel(const KernelChoice& choice, Subgradient rule, R tolerance, Body&& body) {
  switch (choice.mode) {
    case Mode::nearest:
      return body(Nearest<R>{choice.variant != 0});
    case Mode::linear:
      if (rule == Subgradient::right) return body(Linear<R>{});
      return body(LinearWithSlope<R>{rule, tolerance});
    case Mode::cubic:
      return body(Cubic<R>{R(choice.parameter)});
    case Mode::bspline:
      return body(BSpline<R>{choice.taps});
    case Mode::lanczos:
      return body(Lanczos<R>(choice.taps / 2));
    case Mode::gaussian:
      return body(Gaussian<R>{choice.taps, R(choice.parameter)});
    case Mode::tabulated:
      return body(Tabulated<R>{choice.taps, R(choice.support), choice.table, choice.parameters});
  }
}

// The same for the kernels that have parameters; the others call nothing.
template <class R, class Body>
PYSTN_HD void with_parametric_kernel(const KernelChoice& choice, Body&& body) {
  if (choice.mode == Mode::cubic) body(Cubic<R>{R(choice.parameter)});
  if (choice.mode == Mode::gaussian) body(Gaussian<R>{choice.taps, R(choice.parameter)});
  if (choice.mode == Mode::tabulated)
    body(Tabulated<R>{choice.taps, R(choice.support), choice.table, choice.parameters});
}

PYSTN_HD bool folds(Mode mode) { return mode == Mode::nearest || mode == Mode::linear; }

// Whether the weights of all taps add up to 1, wherever the position is.
PYSTN_HD bool adds_to_one(Mode mode) { return mode != Mode::tabulated; }

}  // namespace pystn::PYSTN_LEVEL
