// Boundaries: what a coordinate outside the image means.
//
// For kernels of two taps or fewer the boundary acts on the coordinate, as in torch: it is folded
// into the image once, and the samplers see a single rule afterwards (a tap outside reads zero).
// Each boundary is one function, (p, factor) -> p in the image, with factor the derivative of the
// folding. Where the fold clips, the outermost pixel centres included, the derivative is 0;
// `tolerance` widens that to coordinates that are on the centre but for rounding.
// NaN and infinity are outside() under every boundary: a fold that `takes_any` sees to it itself,
// for the others the caller does.
#pragma once

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

enum class Boundary : int { zeros = 0, border = 1, mirror = 2, symmetric = 3 };

// A position that no kernel of two taps reaches from the image. Stands for NaN and infinity.
template <class R>
PYSTN_HD R outside() {
  return R(-2);
}

template <class R>
struct Zeros {
  static constexpr bool takes_any = true;
  R low, high;  // far enough that all taps are outside

  PYSTN_HD Zeros(Index n, R /*tolerance*/) : low(outside<R>()), high(R(n) + R(1)) {}

  PYSTN_HD R operator()(R p, R& factor) const {
    factor = R(1);
    p = p < high ? p : high;  // false for NaN, which so ends at `high`
    return p > low ? p : low;
  }
};

template <class R>
struct Border {
  static constexpr bool takes_any = false;
  R last, flat_below, flat_above;

  PYSTN_HD Border(Index n, R tolerance) : last(R(n - 1)), flat_below(tolerance), flat_above(R(n - 1) - tolerance) {}

  PYSTN_HD R operator()(R p, R& factor) const {
    factor = p <= flat_below || p >= flat_above ? R(0) : R(1);
    p = p > R(0) ? p : R(0);
    return p < last ? p : last;
  }
};

// Reflects about `low` and `low + span` until p lies between, exactly, then clips to the image.
template <class R>
struct Reflection {
  static constexpr bool takes_any = false;
  Border<R> clip;
  R low, span;
  bool single;  // an image of one pixel

  PYSTN_HD Reflection(Index n, R tolerance, R low, R span) : clip(n, tolerance), low(low), span(span), single(n == 1) {}

  PYSTN_HD R operator()(R p, R& factor) const {
    if (single) {
      factor = R(0);
      return R(0);
    }
    R sign = R(1);
    if (!(p >= low && p <= low + span)) {
      const R bound = Limits<R>::quarter_of_largest;
      p = p > -bound ? p : -bound;
      p = p < bound ? p : bound;
      R distance = p - low;
      if (distance < R(0)) {
        distance = -distance;
        sign = -sign;
      }
      const R period = span + span;
      if (distance > period) distance = remainder_of(distance, period);
      if (distance > span) {
        distance = period - distance;
        sign = -sign;
      }
      p = distance + low;
    }
    p = clip(p, factor);
    factor *= sign;
    return p;
  }
};

// About the centres of the outermost pixels, which are not repeated; period 2 (n - 1).
template <class R>
struct Mirror : Reflection<R> {
  PYSTN_HD Mirror(Index n, R tolerance) : Reflection<R>(n, tolerance, R(0), R(n - 1)) {}
};

// About the image's edges, so that the outermost pixels are repeated; period 2 n.
template <class R>
struct Symmetric : Reflection<R> {
  PYSTN_HD Symmetric(Index n, R tolerance) : Reflection<R>(n, tolerance, R(-0.5), R(n)) {}
};

}  // namespace pystn::PYSTN_LEVEL
