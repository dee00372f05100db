// Coordinates: from what a grid stores to positions in pixels, and the lattice of an output.
#pragma once

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

// What the numbers in a grid mean.
enum class Coordinates : int { aligned_edges = 0, aligned_corners = 1, pixel = 2 };

// One spatial axis of the source. Kernels may be given a window of it: normalisation and boundary
// always follow the whole axis, so that a window alone yields the bits of the whole.
struct Axis {
  Index size;    // pixels of the window at hand
  Index full;    // pixels of the whole axis
  Index origin;  // first pixel of the window
};

// p = (x + bias) * scale + shift, the affine map from a stored coordinate to pixels:
//   aligned corners  p = (x + 1) / 2 * (n - 1)     -1 and 1 are the centres of the outer pixels
//   aligned edges    p = ((x + 1) * n - 1) / 2     -1 and 1 are the outer edges of the image
//   pixel            p = x
template <class R>
struct Normalization {
  R bias, scale, shift;

  static PYSTN_HD Normalization of(Coordinates convention, Index n) {
    switch (convention) {
      case Coordinates::aligned_corners:
        return {R(1), R(n - 1) / R(2), R(0)};
      case Coordinates::aligned_edges:
        return {R(1), R(n) / R(2), R(-0.5)};
      default:
        return {R(0), R(1), R(0)};
    }
  }

  // X: R, or a vector of them (lanes.hpp); below too.
  template <class X>
  PYSTN_HD X operator()(X x) const {
    return (x + bias) * scale + shift;
  }
};

// Samples that are replaced whole by the fill value: none but those whose coordinates are no numbers,
// or those beyond the centres or the edges of the outermost pixels too.
enum class Cutoff : int { none = 0, center = 1, edge = 2 };

// Normalised coordinate of pixel j on an axis of m output pixels. One rounding: the lattice is
// exactly symmetric, and j + 1/2 of an odd axis is exactly 0. Loops over it vectorise where j is a double, and
// mean the same: whole numbers are exact.
template <class R, class J = Index>
PYSTN_HD R lattice(J j, Index m, bool align_corners) {
  const J last = J(m - 1);
  if (align_corners) return m == 1 ? R(0) : R(2 * j - last) / R(m - 1);
  return R(2 * j - last) / R(m);
}

// Target coordinate of pixel j on an axis of m output pixels, in the unit of the source's.
template <class R>
PYSTN_HD R target_coordinate(Coordinates convention, Index j, Index m) {
  if (convention == Coordinates::pixel) return R(j);
  return lattice<R>(j, m, convention == Coordinates::aligned_corners);
}

// Where coordinates come from: a grid, or a matrix applied to the lattice of the output.
enum class Source : int { stored = 0, affine = 1, projective = 2 };

// A row of a lattice under a matrix. All target coordinates but x are constant there, so entry r of
// matrix (x, y, z, 1)^T is slope[r] x + constant[r].
template <class R>
struct MatrixRow {
  R slope[3], constant[3];

  // `at` are the target coordinates, x first; x is not read.
  template <class T>
  PYSTN_HD MatrixRow(const T* matrix, int rows, int ndim, const R* at) {
    for (int r = 0; r < rows; ++r, matrix += ndim + 1) {
      slope[r] = R(matrix[0]);
      constant[r] = R(matrix[ndim]);
      for (int b = ndim - 1; b > 0; --b) constant[r] = R(matrix[b]) * at[b] + constant[r];
    }
  }
  template <class X>
  PYSTN_HD X operator()(int r, X x) const {
    return slope[r] * x + constant[r];
  }
};

// Which denominators a projective map leaves out: those of points at the horizon, and of points
// behind it if they are culled.
template <class R>
struct Horizon {
  R least;
  bool cull_behind;

  // No condition waits for another, so that loops over this vectorise.
  PYSTN_HD bool hides(R q) const { return (!(absolute(q) >= least)) | (cull_behind & (!(q > R(0)))); }
  // Infinite, which is outside, where it is hidden.
  PYSTN_HD R project(R numerator, R q) const { return hides(q) ? infinity<R>() : numerator / q; }
};

// Derivatives of a projected coordinate at = numerator / q, wherever the horizon does not hide it.

// The tangent, from those of both.
template <class R>
PYSTN_HD R projected_tangent(R at, R d_numerator, R d_q, R q) {
  return (d_numerator - at * d_q) / q;
}

// What q gets of the cotangents of two coordinates, whose shares, the cotangents over q, their numerators get.
template <class R>
PYSTN_HD R pulled_to_q(R share_x, R share_y, R at_x, R at_y) {
  return -(share_x * at_x + share_y * at_y);
}

// The same of the tangent: of its cotangent the numerator gets -rate times its share, with rate = d_q / q, and q what
// follows. Both the denominator of the tangent and the coordinate in it hold q. `d` is d_numerator / q.
template <class R>
PYSTN_HD R tangent_pulled_to_q(R share, R at, R d, R rate) {
  return share * (R(2) * rate * at - d);
}

}  // namespace pystn::PYSTN_LEVEL
