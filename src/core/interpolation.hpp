// Interpolation kernels on one axis. Of a position p in pixels a kernel says which cell it lies in,
// and from t = p - cell the weights w of its taps with w' and w'' their derivatives to p:
//
//   R place(R p, R& t)                       the cell, a whole number; t, from it to p
//   void weights(R t, R* w, R* dw, R* d2w)   dw and d2w may be null
//
// S taps start at cell - (S - 1) / 2. Kernels that `fold` have at most two taps of any weight, and
// have the boundary fold the coordinate (boundaries.hpp). A kernel with parameters Phi adds
//
//   void pull(R t, const R* by_weight, double* grad)       grad += (dw/dPhi)^T by_weight
//   void push(R t, const double* d_parameters, R* d_w)     d_w = dw/dPhi d_parameters
//
// A new kernel is one struct here, a case in with_kernel below, and a class in interpolation.py.
#pragma once

#include "portability.hpp"

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
template <class R>
PYSTN_HD R distance_of(R t, int taps, int k) {
  return t + R((taps - 1) / 2 - k);
}

// The nearest pixel, ties to the even one or up.
template <class R>
struct Nearest {
  static constexpr bool folds = true;
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
  static constexpr bool folds = true;
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
  static constexpr bool folds = true;
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
    dw[0] = R(0);
    dw[1] = R(-1);
    dw[2] = R(1);
    if (absolute(t) > tolerance) return;  // within a cell
    if (rule == Subgradient::left) {
      dw[0] = R(-1);
      dw[1] = R(1);
      dw[2] = R(0);
    } else if (rule == Subgradient::central) {
      dw[0] = R(-0.5);
      dw[1] = R(0);
      dw[2] = R(0.5);
    } else {
      dw[1] = R(0);
      dw[2] = R(0);
    }
  }
};

// Keys' cubic convolution (1981) with parameter a.
template <class R>
struct Cubic {
  static constexpr bool folds = false;
  static constexpr int taps = 4;
  R a;

  PYSTN_HD R place(R p, R& t) const { return cell_of(p, taps, t); }
  PYSTN_HD void weights(R t, R* w, R* dw, R* d2w) const {
    for (int k = 0; k < 4; ++k) {
      const R d = distance_of(t, 4, k), x = absolute(d), sign = d < R(0) ? R(-1) : R(1);
      if (k == 1 || k == 2) {
        w[k] = ((a + R(2)) * x - (a + R(3))) * x * x + R(1);
        if (dw) dw[k] = sign * (R(3) * (a + R(2)) * x - R(2) * (a + R(3))) * x;
        if (d2w) d2w[k] = R(6) * (a + R(2)) * x - R(2) * (a + R(3));
      } else {
        w[k] = a * (((x - R(5)) * x + R(8)) * x - R(4));
        if (dw) dw[k] = sign * a * ((R(3) * x - R(10)) * x + R(8));
        if (d2w) d2w[k] = a * (R(6) * x - R(10));
      }
    }
  }
  static PYSTN_HD void by_a(R t, R* w) {
    for (int k = 0; k < 4; ++k) {
      const R x = absolute(distance_of(t, 4, k));
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
  static constexpr bool folds = false;
  int taps;  // order + 1

  PYSTN_HD R place(R p, R& t) const { return cell_of(p, taps, t); }
  PYSTN_HD void weights(R t, R* w, R* dw, R* d2w) const {
    const int order = taps - 1;
    const R u = taps % 2 ? t + R(0.5) : t;
    w[0] = R(1);
    for (int m = 1; m <= order; ++m) {
      if (dw && m == order)
        for (int j = 0; j < taps; ++j) dw[j] = (j > 0 ? w[j - 1] : R(0)) - (j < m ? w[j] : R(0));
      if (d2w && m == order - 1)
        for (int j = 0; j < taps; ++j)
          d2w[j] = (j > 1 ? w[j - 2] : R(0)) - (j > 0 && j <= m ? R(2) * w[j - 1] : R(0)) + (j < m ? w[j] : R(0));
      for (int j = m; j >= 0; --j)
        w[j] = ((u + R(m - j)) * (j > 0 ? w[j - 1] : R(0)) + (R(1 + j) - u) * (j < m ? w[j] : R(0))) * (R(1) / R(m));
    }
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

// sinc(d) sinc(d / a), windowed to a lobes, divided by the sum over its taps.
template <class R>
struct Lanczos {
  static constexpr bool folds = false;
  static constexpr double pi = 3.14159265358979323846;
  int taps;                // 2 a
  R sines[8], cosines[8];  // of pi (a - 1 - k) / a

  explicit PYSTN_HD Lanczos(int a) : taps(2 * a) {
    for (int k = 0; k < taps; ++k) {
      const double angle = pi * (a - 1 - k) / a;
      sines[k] = R(sin_of(angle));
      cosines[k] = R(cos_of(angle));
    }
  }
  PYSTN_HD R place(R p, R& t) const { return cell_of(p, taps, t); }
  PYSTN_HD void weights(R t, R* w, R* dw, R* d2w) const {
    const int a = taps / 2;
    const R one = R(pi), slow = R(pi / a);
    const R s = sin_of(one * t), c = cos_of(one * t), s_slow = sin_of(slow * t), c_slow = cos_of(slow * t);
    R k1[8], k2[8], sum = R(0), sum1 = R(0), sum2 = R(0);
    for (int k = 0; k < taps; ++k) {
      const R d = distance_of(t, taps, k), sign = (a - 1 - k) % 2 ? R(-1) : R(1);
      R f, df, d2f, g, dg, d2g;
      sinc_of(one * d, sign * s, sign * c, f, df, d2f);
      sinc_of(slow * d, s_slow * cosines[k] + c_slow * sines[k], c_slow * cosines[k] - s_slow * sines[k], g, dg, d2g);
      w[k] = f * g;
      k1[k] = one * df * g + slow * f * dg;
      k2[k] = one * one * d2f * g + R(2) * one * slow * df * dg + slow * slow * f * d2g;
      sum += w[k];
      sum1 += k1[k];
      sum2 += k2[k];
    }
    // (k / N)' = (k' - w N') / N, and once more.
    for (int k = 0; k < taps; ++k) {
      w[k] /= sum;
      const R first = (k1[k] - w[k] * sum1) / sum;
      if (dw) dw[k] = first;
      if (d2w) d2w[k] = (k2[k] - R(2) * first * sum1 - w[k] * sum2) / sum;
    }
  }
};

// exp(-d^2 / (2 sigma^2)), divided by the sum over its taps.
template <class R>
struct Gaussian {
  static constexpr bool folds = false;
  int taps;
  R sigma;

  PYSTN_HD R place(R p, R& t) const { return cell_of(p, taps, t); }
  // Weights, and the mean of d over them.
  PYSTN_HD R normalized(R t, R* w) const {
    const R scale = R(-0.5) / (sigma * sigma);
    const R nearest = t < R(0.5) ? t : R(1) - t;  // keeps the largest at 1, however narrow the kernel
    R sum = R(0), mean = R(0);
    for (int k = 0; k < taps; ++k) {
      const R d = distance_of(t, taps, k);
      w[k] = exp_of(scale * (d - nearest) * (d + nearest));
      sum += w[k];
    }
    for (int k = 0; k < taps; ++k) {
      w[k] /= sum;
      mean += w[k] * distance_of(t, taps, k);
    }
    return mean;
  }
  PYSTN_HD void weights(R t, R* w, R* dw, R* d2w) const {
    const R mean = normalized(t, w), rate = R(-1) / (sigma * sigma);
    if (!dw && !d2w) return;
    R variance = R(0);
    for (int k = 0; k < taps; ++k) {
      const R d = distance_of(t, taps, k) - mean;
      variance += w[k] * d * d;
    }
    // w' = w (s - <s>) with s = rate d the slope of the logarithm, and w'' = w ((s - <s>)^2 - var s).
    for (int k = 0; k < taps; ++k) {
      const R d = distance_of(t, taps, k) - mean;
      if (dw) dw[k] = w[k] * rate * d;
      if (d2w) d2w[k] = w[k] * rate * rate * (d * d - variance);
    }
  }
  PYSTN_HD void by_sigma(R t, R* w) const {
    normalized(t, w);
    const R cube = sigma * sigma * sigma;
    R mean = R(0);
    for (int k = 0; k < taps; ++k) {
      const R d = distance_of(t, taps, k);
      mean += w[k] * d * d;
    }
    for (int k = 0; k < taps; ++k) {
      const R d = distance_of(t, taps, k);
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
  static constexpr bool folds = false;
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
      const R d = distance_of(t, taps, k);
      w[k] = value(d, 0);
      if (dw) dw[k] = value(d, 1);
      if (d2w) d2w[k] = value(d, 2);
    }
  }
  PYSTN_HD void pull(R t, const R* by_weight, double* grad) const {
    for (int k = 0; k < taps; ++k)
      entries(distance_of(t, taps, k), 0, [&](Index j, R share) { grad[j] += double(by_weight[k]) * double(share); });
  }
  PYSTN_HD void push(R t, const double* d_parameters, R* d_w) const {
    for (int k = 0; k < taps; ++k) {
      d_w[k] = R(0);
      entries(distance_of(t, taps, k), 0, [&](Index j, R share) { d_w[k] += R(d_parameters[j]) * share; });
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
