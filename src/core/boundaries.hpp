// Boundaries: what a coordinate outside the image means.
//
// For kernels of two taps or fewer the boundary acts on the coordinate, as in torch: it is folded
// into the image once, and the samplers see a single rule afterwards (a tap outside reads zero).
// Each boundary is one function: fold(p, n, tolerance, factor) -> p in the image, with factor the
// derivative of the folding. Where the fold clips, the outermost pixel centres included, the
// derivative is 0; `tolerance` widens that to coordinates that are on the centre but for rounding.
#pragma once

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

enum class Boundary : int { zeros = 0, border = 1, mirror = 2, symmetric = 3 };

// A position that no kernel of two taps reaches from the image. Stands for NaN and infinity.
template <class R>
PYSTN_HD R outside() {
  return R(-2);
}

struct Zeros {
  template <class R>
  static PYSTN_HD R fold(R p, Index n, R /*tolerance*/, R& factor) {
    factor = R(1);
    const R low = outside<R>(), high = R(n) + R(1);  // far enough that all taps are outside
    p = p > low ? p : low;
    return p < high ? p : high;
  }
};

struct Border {
  template <class R>
  static PYSTN_HD R fold(R p, Index n, R tolerance, R& factor) {
    const R last = R(n - 1);
    factor = p <= tolerance || p >= last - tolerance ? R(0) : R(1);
    p = p > R(0) ? p : R(0);
    return p < last ? p : last;
  }
};

// Reflects about `low` and `low + span` until p lies between, exactly, then clips to the image.
template <class R>
PYSTN_HD R reflect(R p, R low, R span, Index n, R tolerance, R& factor) {
  if (n == 1) {
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
  R clip;
  p = Border::fold(p, n, tolerance, clip);
  factor = sign * clip;
  return p;
}

// About the centres of the outermost pixels, which are not repeated; period 2 (n - 1).
struct Mirror {
  template <class R>
  static PYSTN_HD R fold(R p, Index n, R tolerance, R& factor) {
    return reflect(p, R(0), R(n - 1), n, tolerance, factor);
  }
};

// About the image's edges, so that the outermost pixels are repeated; period 2 n.
struct Symmetric {
  template <class R>
  static PYSTN_HD R fold(R p, Index n, R tolerance, R& factor) {
    return reflect(p, R(-0.5), R(n), n, tolerance, factor);
  }
};

}  // namespace pystn::PYSTN_LEVEL
