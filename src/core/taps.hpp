// Taps: the pixels that one sample reads, with their weights.
//
// On one axis a kernel and a boundary give S taps: index, weight w, slope w' and curve w''. A sample
// in ND dimensions reads the S^ND products of them, and every operation is a loop over these:
// forward sums w * pixel, the gradient to the grid sums w' * pixel, the gradient to the input adds
// w * cotangent to the pixel, the second order takes w''.
#pragma once

#include "boundaries.hpp"
#include "coordinates.hpp"
#include "interpolation.hpp"

namespace pystn::PYSTN_LEVEL {

PYSTN_HD constexpr int power(int base, int exponent) {
  int product = 1;
  for (; exponent > 0; --exponent) product *= base;
  return product;
}

// From a stored coordinate to a position in the source window: one axis, one boundary.
template <class R, template <class> class Fold>
struct Projection {
  using Folding = Fold<R>;
  Normalization<R> normalize;
  Fold<R> fold;
  R origin;

  PYSTN_HD Projection(Coordinates convention, Subgradient rule, Index n, R origin)
      : normalize(Normalization<R>::of(convention, n)), fold(n, lattice_tolerance<R>(rule, n)), origin(origin) {}
  template <class Job>
  PYSTN_HD Projection(const Job& job, int a)
      : Projection(Coordinates(job.coordinates), Subgradient(job.subgradient), job.full[a], R(job.origin[a])) {}

  // Also d position / d coordinate. `divides` as in boundaries.hpp.
  template <bool divides = true>
  PYSTN_HD R operator()(R x, R& factor) const {
    const bool reads = Fold<R>::takes_any || is_finite(x);
    R f;
    const R p = folded<divides>(normalize(x), f) - origin;
    factor = reads ? f * normalize.scale : R(0);
    return reads ? p : outside<R>();
  }

  template <bool divides>
  PYSTN_HD R folded(R p, R& factor) const {
    if constexpr (Fold<R>::periodic)
      return fold.template operator()<divides>(p, factor);
    else
      return fold(p, factor);
  }
};

// What a cutoff leaves out of an axis of n pixels; coordinates that are no numbers too.
template <class R>
struct CutoffLine {
  Normalization<R> normalize;
  R low, high;

  PYSTN_HD CutoffLine(Cutoff cutoff, Coordinates convention, Index n) : normalize(Normalization<R>::of(convention, n)) {
    const R beyond = (cutoff == Cutoff::edge ? R(0.5) : R(0)) +
                     (convention == Coordinates::pixel ? R(0) : rounding_of_positions<R>(n));
    low = -beyond;
    high = R(n - 1) + beyond;
  }
  PYSTN_HD bool leaves_out(R x) const {
    const R p = normalize(x);
    return !(p >= low && p <= high);
  }
};

// The cell of position p, and t, from it to p: finite however far away p is.
template <class R, class Kernel>
PYSTN_HD R cell_and_phase(const Kernel& kernel, R p, R& t) {
  const R bound = Limits<R>::quarter_of_largest;
  return kernel.place(between(-bound, p, bound), t);
}

// Weights of the taps of position p on one axis, with derivatives unless dw or d2w are null; returns
// the cell that the taps are counted from.
template <class R, class Kernel>
PYSTN_HD R weigh_taps(const Kernel& kernel, R p, R* w, R* dw, R* d2w) {
  R t;
  const R cell = cell_and_phase(kernel, p, t);
  kernel.weights(t, w, dw, d2w);
  return cell;
}

// Indices of these taps: the first of them, as counted from `origin`, the first pixel of the window at
// hand, of `size` pixels. A tap that is not in the image has the index `outside_image`, and keeps its
// weight; an idle one, which weighs nothing, counts as outside, so that no NaN is read where nothing
// is read for.
template <class Int, class R>
PYSTN_HD Int first_tap(R reduced_cell, int taps, Index origin) {
  return Int(reduced_cell) - Int((taps - 1) / 2 + origin);
}

template <class Map>
PYSTN_HD Index map_tap(const Map& map, Index i, Index origin, Index size) {
  const Index mapped = map(i + origin);
  const Index here = mapped - origin;
  return mapped != outside_image && here >= 0 && here < size ? here : outside_image;
}

// Whether a tap is idle; slopes that are not wanted are 0. Of up to two taps none is.
template <class R>
PYSTN_HD bool is_idle(R w, R dw, R d2w) {
  return w == R(0) && dw == R(0) && d2w == R(0);
}

// A value with its first and second derivatives along ND axes.
template <class R, int ND>
struct Jet {
  R value = {}, slope[ND ? ND : 1] = {}, curve[ND ? ND : 1][ND ? ND : 1] = {};

  // Adds an inner jet times a function of one more axis, the last, which is (w, dw, d2w).
  template <int order>
  PYSTN_HD void add(const Jet<R, ND - 1>& inner, R w, R dw, R d2w) {
    constexpr int last = ND - 1;
    value += inner.value * w;
    if (order >= 1) {
      for (int a = 0; a < last; ++a) slope[a] += inner.slope[a] * w;
      slope[last] += inner.value * dw;
    }
    if (order >= 2) {
      for (int a = 0; a < last; ++a) {
        for (int b = 0; b < last; ++b) curve[a][b] += inner.curve[a][b] * w;
        curve[a][last] += inner.slope[a] * dw;
        curve[last][a] += inner.slope[a] * dw;
      }
      curve[last][last] += inner.value * d2w;
    }
  }
};

template <class R, int ND>
PYSTN_HD Jet<R, ND> difference(Jet<R, ND> a, const Jet<R, ND>& b) {
  a.value -= b.value;
  for (int i = 0; i < ND; ++i) {
    a.slope[i] -= b.slope[i];
    for (int j = 0; j < ND; ++j) a.curve[i][j] -= b.curve[i][j];
  }
  return a;
}

// A share of the weight as a mask: the weights of some kernels overshoot.
template <class R>
PYSTN_HD R clipped_share(R share) {
  return share < R(0) ? R(0) : share > R(1) ? R(1) : share;
}

// The mask, from the weight inside the image by positions, with factor(a) = d position / d coordinate.
template <class R, int ND, class Factor>
PYSTN_HD Jet<R, ND> coverage_of(Jet<R, ND> share, Factor&& factor) {
  if (share.value > R(1) || share.value < R(0)) {
    Jet<R, ND> clipped;
    clipped.value = clipped_share(share.value);
    return clipped;
  }
  for (int a = 0; a < ND; ++a) {
    share.slope[a] *= factor(a);
    for (int b = 0; b < ND; ++b) share.curve[a][b] *= factor(a) * factor(b);
  }
  return share;
}

// The product of functions of one axis each, given as {w, dw, d2w}, of the first ND axes.
template <class R, int ND>
struct Product {
  static PYSTN_HD Jet<R, ND> of(const R (*s)[3]) {
    Jet<R, ND> jet;
    jet.template add<2>(Product<R, ND - 1>::of(s), s[ND - 1][0], s[ND - 1][1], s[ND - 1][2]);
    return jet;
  }
};

template <class R>
struct Product<R, 0> {
  static PYSTN_HD Jet<R, 0> of(const R (*)[3]) {
    Jet<R, 0> one;
    one.value = R(1);
    return one;
  }
};

// The share of a sample's weight on taps that read the fill value: all but those inside, and but those that another
// boundary has. From sums over the taps of each axis, {w, w', w''}. Whether it is all of it, which no sums of weights
// say but to rounding.
template <int ND, class R>
PYSTN_HD Jet<R, ND> share_outside(const R (*all)[3], const R (*inside)[3], bool is_all) {
  if (is_all) {
    Jet<R, ND> one;
    one.value = R(1);
    return one;
  }
  return difference(Product<R, ND>::of(all), Product<R, ND>::of(inside));
}

// by_weight[a][k] += d (sum over taps of value(indices)) / d weight(a, k), over the taps in the image. The taps of a
// sample have count(a), index(a, k) and weight(a, k).
template <int ND, class R, int room, class Taps, class Value>
PYSTN_HD void add_by_weight(const Taps& taps, R (&by_weight)[ND][room], Value&& value) {
  int tap[ND] = {};
  for (;;) {
    Index index[ND];
    bool inside = true;
    for (int a = 0; a < ND; ++a) {
      index[a] = taps.index(a, tap[a]);
      inside = inside && index[a] >= 0;
    }
    if (inside) {
      const R u = value(index);
      for (int a = 0; a < ND; ++a) {
        R others = u;
        for (int b = 0; b < ND; ++b)
          if (b != a) others *= taps.weight(b, tap[b]);
        by_weight[a][tap[a]] += others;
      }
    }
    int a = 0;
    while (a < ND && ++tap[a] == taps.count(a)) tap[a++] = 0;
    if (a == ND) return;
  }
}

// The same for the taps that read the fill value, of which `fill` is the sum times the cotangent; `fills[a]`: whether
// those outside on axis a do.
template <int ND, class R, int room, class Taps>
PYSTN_HD void add_fill_by_weight(const Taps& taps, const R (*all)[3], const R (*inside)[3], const bool* fills, R fill,
                                 R (&by_weight)[ND][room]) {
  for (int a = 0; a < ND; ++a) {
    R others_all = fill, others_inside = fill;
    for (int b = 0; b < ND; ++b)
      if (b != a) {
        others_all *= all[b][0];
        others_inside *= inside[b][0];
      }
    for (int k = 0; k < taps.count(a); ++k) {
      const bool in = taps.index(a, k) >= 0;
      by_weight[a][k] += (in || fills[a] ? others_all : R(0)) - (in ? others_inside : R(0));
    }
  }
}

}  // namespace pystn::PYSTN_LEVEL
