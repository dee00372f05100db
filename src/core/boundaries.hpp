// Boundaries: what is read beyond the image. Each has two forms, side by side below.
//
// Kernels of two taps or fewer fold the coordinate, as PyTorch does: a fold is one function,
// (p, factor) -> p in the image, with factor the derivative of the folding. Where it clips, the
// outermost pixel centres included, the derivative is 0; `tolerance` widens that to coordinates that
// are on the centre but for rounding. NaN and infinity are outside() under every boundary: a fold
// that `takes_any` sees to it itself, for the others the caller does.
//
// Wider kernels map the index of every tap: (i) -> index in the image, or -1, outside. `reduce`
// brings the cell that the taps are counted from near the image first, in floating point, without
// changing what they map to.
//
// A boundary that is `periodic` takes off whole periods by a division, which loops over many
// positions do not vectorise with and few positions need: where all are `within` its reach, the
// template argument `divides` leaves it out, to the same bits; and so does `nearby_tap` for taps of cells
// within a period, in images longer than these are many. Positions may be vectors there.
#pragma once

#include "lanes.hpp"

namespace pystn::PYSTN_LEVEL {

enum class Boundary : int { zeros = 0, border = 1, mirror = 2, symmetric = 3, wrap = 4, constant = 5 };

constexpr Index outside_image = -1;

// A position that no kernel of two taps reaches from the image. Stands for NaN and infinity.
template <class R>
PYSTN_HD R outside() {
  return R(-2);
}

template <class R, class X>
PYSTN_HD X between(R low, X x, R high) {
  const X least = spread<X>(low), most = spread<X>(high);  // a call in a choice would be a branch
  x = x > least ? x : least;
  return x < most ? x : most;
}

// Far enough for all taps to be beyond the image on the side of the cell.
template <class R>
PYSTN_HD R nearby(R cell, Index n) {
  return between(R(-128), cell, R(n) + R(128));
}

// The cell less whole periods.
template <class R>
PYSTN_HD R within_a_period(R cell, Index period) {
  return cell >= R(-period) && cell <= R(period) ? cell : remainder_of(cell, R(period));
}

template <class Int>
PYSTN_HD Int modulo(Int i, Int period) {
  const Int r = i % period;
  return r < 0 ? r + period : r;
}

// ---- zeros and constant: taps outside read 0 or the fill value

template <class R>
struct Zeros {
  static constexpr bool takes_any = true, periodic = false;
  R low, high;  // far enough that all taps are outside

  PYSTN_HD Zeros(Index n, R /*tolerance*/) : low(outside<R>()), high(R(n) + R(1)) {}

  template <class X>
  PYSTN_HD X operator()(X p, X& factor) const {
    const X least = spread<X>(low), most = spread<X>(high);
    factor = spread<X>(R(1));
    p = p < most ? p : most;  // false for NaN, which so ends at `high`
    return p > least ? p : least;
  }
};

struct DroppedTaps {
  static constexpr bool periodic = false;
  Index n;

  template <class R>
  PYSTN_HD R reduce(R cell) const {
    return nearby(cell, n);
  }
  template <class Int>
  PYSTN_HD Int operator()(Int i) const {
    return nearby_tap(i);
  }
  template <class Int>
  PYSTN_HD Int nearby_tap(Int i) const {
    return i >= 0 && i < Int(n) ? i : Int(outside_image);
  }
};

// ---- border: the nearest pixel of the image

template <class R>
struct Border {
  static constexpr bool takes_any = false, periodic = false;
  R last, flat_below, flat_above;

  PYSTN_HD Border(Index n, R tolerance) : last(R(n - 1)), flat_below(tolerance), flat_above(R(n - 1) - tolerance) {}

  template <class X>
  PYSTN_HD X operator()(X p, X& factor) const {
    const X none = X{}, one = spread<X>(R(1));
    factor = (p <= flat_below) | (p >= flat_above) ? none : one;
    return between(R(0), p, last);
  }
};

struct ClippedTaps {
  static constexpr bool periodic = false;
  Index n;

  template <class R>
  PYSTN_HD R reduce(R cell) const {
    return nearby(cell, n);
  }
  template <class Int>
  PYSTN_HD Int operator()(Int i) const {
    return nearby_tap(i);
  }
  template <class Int>
  PYSTN_HD Int nearby_tap(Int i) const {
    const Int below = i < Int(n) ? i : Int(n) - 1;
    return below < 0 ? 0 : below;
  }
};

// ---- mirror: about the centres of the outermost pixels, which are not repeated; period 2 (n - 1)
// ---- symmetric: about the image's edges, so that the outermost pixels are repeated; period 2 n

// Reflects about `low` and `low + span` until p lies between, exactly, then clips to the image.
template <class R>
struct Reflection {
  static constexpr bool takes_any = false, periodic = true;
  Border<R> clip;
  R low, span;
  bool single;  // an image of one pixel

  PYSTN_HD Reflection(Index n, R tolerance, R low, R span) : clip(n, tolerance), low(low), span(span), single(n == 1) {}

  template <class X>
  PYSTN_HD auto within(X p) const {
    return absolute(p - low) <= spread<X>(span + span);
  }

  template <bool divides = true, class X>
  PYSTN_HD X operator()(X p, X& factor) const {
    // Every choice by a condition of its own, so that loops over this vectorise.
    const R bound = Limits<R>::quarter_of_largest, period = span + span;
    X d = p - low;
    if constexpr (divides) {
      if (single) {
        factor = R(0);
        return R(0);
      }
      d = between(-bound, p, bound) - low;
      if (absolute(d) > period) d = d < R(0) ? -remainder_of(-d, period) : remainder_of(d, period);
    }
    const X away = absolute(d), one = spread<X>(R(1));
    const X sign = (d > span) | ((d < R(0)) & (d >= -span)) ? -one : one;
    const X back = (away > span ? period - away : away) + low;
    p = (p >= low) & (p <= low + span) ? p : back;
    p = clip(p, factor);
    factor *= sign;
    return p;
  }
};

template <class R>
struct Mirror : Reflection<R> {
  PYSTN_HD Mirror(Index n, R tolerance) : Reflection<R>(n, tolerance, R(0), R(n - 1)) {}
};

struct MirroredTaps {
  static constexpr bool periodic = true;
  Index n;

  PYSTN_HD Index period() const { return n > 1 ? 2 * (n - 1) : 1; }
  template <class R>
  PYSTN_HD R reduce(R cell) const {
    return within_a_period(cell, period());
  }
  template <class Int>
  PYSTN_HD Int operator()(Int i) const {
    if (i >= 0 && i < Int(n)) return i;
    const Int r = modulo(i, Int(period()));
    return r < Int(n) ? r : Int(period()) - r;
  }
  template <class Int>
  PYSTN_HD Int nearby_tap(Int i) const {
    const Int away = i < 0 ? -i : i, back = away < Int(n) ? away : Int(period()) - away;
    return back < 0 ? -back : back;
  }
};

template <class R>
struct Symmetric : Reflection<R> {
  PYSTN_HD Symmetric(Index n, R tolerance) : Reflection<R>(n, tolerance, R(-0.5), R(n)) {}
};

struct SymmetricTaps {
  static constexpr bool periodic = true;
  Index n;

  PYSTN_HD Index period() const { return 2 * n; }
  template <class R>
  PYSTN_HD R reduce(R cell) const {
    return within_a_period(cell, period());
  }
  template <class Int>
  PYSTN_HD Int operator()(Int i) const {
    if (i >= 0 && i < Int(n)) return i;
    const Int r = modulo(i, Int(period()));
    return r < Int(n) ? r : Int(period()) - 1 - r;
  }
  template <class Int>
  PYSTN_HD Int nearby_tap(Int i) const {
    const Int away = i < 0 ? -1 - i : i, back = away < Int(n) ? away : Int(period()) - 1 - away;
    return back < 0 ? -1 - back : back;
  }
};

// ---- wrap: the image repeated, period n

template <class R>
struct Wrap {
  static constexpr bool takes_any = false, periodic = true;
  R period;

  PYSTN_HD Wrap(Index n, R /*tolerance*/) : period(R(n)) {}

  template <class X>
  PYSTN_HD auto within(X p) const {
    return (p > spread<X>(-period)) & (p < spread<X>(period + period));
  }

  template <bool divides = true, class X>
  PYSTN_HD X operator()(X p, X& factor) const {
    factor = spread<X>(R(1));
    if constexpr (divides) {
      const R bound = Limits<R>::quarter_of_largest;
      if (!(p >= R(0) && p < period)) p = remainder_of(between(-bound, p, bound), period);
    } else {
      p = p < period ? p : p - period;
    }
    p = p < R(0) ? p + period : p;
    return p < period ? p : X{};
  }
};

struct WrappedTaps {
  static constexpr bool periodic = true;
  Index n;

  PYSTN_HD Index period() const { return n; }
  template <class R>
  PYSTN_HD R reduce(R cell) const {
    return within_a_period(cell, period());
  }
  template <class Int>
  PYSTN_HD Int operator()(Int i) const {
    return i >= 0 && i < Int(n) ? i : modulo(i, Int(n));
  }
  template <class Int>
  PYSTN_HD Int nearby_tap(Int i) const {
    for (int twice = 0; twice < 2; ++twice) {
      i = i < 0 ? i + Int(n) : i;
      i = i >= Int(n) ? i - Int(n) : i;
    }
    return i;
  }
};

// ---- the boundary of a name: for a fold of type Fold<R>, and for a map of taps

template <class Body>
PYSTN_HD void with_tap_boundary(Boundary boundary, Index n, Body&& body) {
  switch (boundary) {
    case Boundary::zeros:
    case Boundary::constant:
      return body(DroppedTaps{n});
    case Boundary::border:
      return body(ClippedTaps{n});
    case Boundary::mirror:
      return body(MirroredTaps{n});
    case Boundary::symmetric:
      return body(SymmetricTaps{n});
    case Boundary::wrap:
      return body(WrappedTaps{n});
  }
}

template <template <class> class Fold_>
struct FoldOf {
  template <class R>
  using Fold = Fold_<R>;
};

template <class Body>
PYSTN_HD void with_fold(Boundary boundary, Body&& body) {
  switch (boundary) {
    case Boundary::zeros:
    case Boundary::constant:
      return body(FoldOf<Zeros>{});
    case Boundary::border:
      return body(FoldOf<Border>{});
    case Boundary::mirror:
      return body(FoldOf<Mirror>{});
    case Boundary::symmetric:
      return body(FoldOf<Symmetric>{});
    case Boundary::wrap:
      return body(FoldOf<Wrap>{});
  }
}

// Taps of a folded coordinate: only under wrap does one of them come in again on the other side.
PYSTN_HD Boundary after_fold(Boundary boundary) {
  return boundary == Boundary::wrap ? Boundary::wrap : Boundary::zeros;
}

}  // namespace pystn::PYSTN_LEVEL
