// Interpolation kernels on one axis: from a position p in pixels to the index of the first tap, the
// weights w of the taps and their slopes dw = dw/dp. I is the type of the index: 64 bits wherever a
// length may be long, 32 where the caller knows better and vectors of it are wanted.
//
// The linear kernel has a kink at every pixel centre; `Subgradient` says which slope is taken there.
#pragma once

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

enum class Subgradient : int { right = 0, left = 1, central = 2, zero = 3 };

// How close to a pixel centre counts as being on it, for the subgradients that are two-sided:
// coordinates of the identity grid are centres up to rounding.
template <class R>
PYSTN_HD R lattice_tolerance(Subgradient rule, Index n) {
  const bool two_sided = rule == Subgradient::central || rule == Subgradient::zero;
  return two_sided ? R(8) * Limits<R>::epsilon * R(n) : R(0);
}

// The nearest pixel, ties to the even one.
struct Nearest {
  static constexpr int taps = 1;
  static constexpr bool has_idle_taps = false;

  template <class I = Index, class R>
  static PYSTN_HD I at(R p, R /*tolerance*/, R (&w)[1], R (&dw)[1]) {
    w[0] = R(1);
    dw[0] = R(0);
    return I(round_of(p));
  }
};

// max(0, 1 - |p - i|) on the cell [floor(p), floor(p) + 1): right-hand slopes.
struct Linear {
  static constexpr int taps = 2;
  static constexpr bool has_idle_taps = false;

  template <class I = Index, class R>
  static PYSTN_HD I at(R p, R /*tolerance*/, R (&w)[2], R (&dw)[2]) {
    const R cell = floor_of(p), t = p - cell;
    w[0] = R(1) - t;
    w[1] = t;
    dw[0] = R(-1);
    dw[1] = R(1);
    return I(cell);
  }
};

// The same weights over three taps, for slopes that look to the left of a pixel centre.
template <Subgradient rule>
struct LinearWithSlope {
  static constexpr int taps = 3;
  static constexpr bool has_idle_taps = true;  // of weight and slope 0: a cell has two

  template <class I = Index, class R>
  static PYSTN_HD I at(R p, R tolerance, R (&w)[3], R (&dw)[3]) {
    const R nearest = round_of(p);
    const bool kink = absolute(p - nearest) <= tolerance;
    const R centre = kink ? nearest : floor_of(p);
    const R left = p < centre ? centre - p : R(0), right = p > centre ? p - centre : R(0);
    w[0] = left;
    w[1] = R(1) - (left + right);
    w[2] = right;
    dw[0] = R(0);
    dw[1] = R(-1);
    dw[2] = R(1);
    if (kink) {
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
    return I(centre) - 1;
  }
};

}  // namespace pystn::PYSTN_LEVEL
