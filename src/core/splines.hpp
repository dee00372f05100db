// Coefficients of B-splines: the systems A c = u of one axis that make a spline pass through pixels.
//
// A[i, j] sums the weights of the taps of position i that the boundary maps to pixel j. Unser
// ("Splines: a perfect fit for signal and image processing", 1999) solves it by two recursive
// filters, started from sums that are cut off; here A is factored, and the solution is exact up to
// rounding under every boundary, on the shortest axes too. A boundary moves no tap away from i: A
// is a band of `half` entries on either side of the diagonal. Only wrap adds two corners, which
// make the last `half` rows and columns of the factors full.
//
// No pivots are sought: none is below 0.1 and no factor above 1.5, for all orders, boundaries and
// lengths, and the condition of A is below 21.
#pragma once

#include "boundaries.hpp"

namespace pystn::PYSTN_LEVEL {

// How far the ends of an axis are felt: what they add falls as z^i with |z| < 0.536, the largest pole
// of order 7, and is below 1e-34 from here on. The corners of wrap are stored that far; and rows of
// the factors beyond are all alike, up to the last few.
constexpr Index spline_corner = 128, spline_tail = 16;

// The centred B-spline of order 2 to 7 at the integer `distance`, at most order / 2.
PYSTN_HD double spline_weight(int order, int distance) {
  constexpr double weights[6][4] = {
      {3.0 / 4, 1.0 / 8, 0, 0},
      {2.0 / 3, 1.0 / 6, 0, 0},
      {115.0 / 192, 19.0 / 96, 1.0 / 384, 0},
      {11.0 / 20, 13.0 / 60, 1.0 / 120, 0},
      {5887.0 / 11520, 10543.0 / 46080, 361.0 / 23040, 1.0 / 46080},
      {151.0 / 315, 397.0 / 1680, 1.0 / 42, 1.0 / 5040},
  };
  return weights[order - 2][distance];
}

// A = L D U of one axis, or of its transpose, L and U with ones on their diagonals. A row of `band`
// holds `half` entries of L, 1 / D and `half` entries of U; what L and U have beyond the band is in
// `lower`, by rows, and `upper`, by columns. Stored in memory of the caller, of size() numbers, few
// whatever the length of the axis.
struct SplineFactors {
  int half;
  Index n, stored;     // pixels of the axis; rows stored, the factors of a shorter axis
  Index border, head;  // full rows, the last ones; entries stored of each
  double *band, *lower, *upper;

  PYSTN_HD SplineFactors(int order, Boundary boundary, Index n, double* memory) : half(order / 2), n(n) {
    stored = n < spline_corner + spline_tail ? n : spline_corner + spline_tail;
    border = boundary != Boundary::wrap ? 0 : n < half ? n : Index(half);
    head = stored - border < spline_corner ? stored - border : spline_corner;
    band = memory;
    lower = band + stored * (2 * half + 1);
    upper = lower + border * head;
  }

  PYSTN_HD Index size() const { return stored * (2 * half + 1) + 2 * border * head; }

  // The stored row of pixel i.
  PYSTN_HD Index row_of(Index i) const {
    if (i < spline_corner) return i;
    return i < spline_corner + (n - stored) ? spline_corner : i - (n - stored);
  }

  // Null where the factors are zero, or as good as that.
  PYSTN_HD double* at(Index i, Index j) const {
    if (i - j <= half && j - i <= half) return band + i * (2 * half + 1) + half + (j - i);
    if (i > j) return i >= stored - border && j < head ? lower + (i - (stored - border)) * head + j : nullptr;
    return j >= stored - border && i < head ? upper + (j - (stored - border)) * head + i : nullptr;
  }

  PYSTN_HD void factor(int order, Boundary boundary, bool transposed) const {
    for (Index k = 0; k < size(); ++k) band[k] = 0;
    assemble(order, boundary, transposed, 0, 1);
    eliminate();
  }

  // A, or its transpose, where there were zeros: what pixels first, first + step, ... have of it, which no others have.
  PYSTN_HD void assemble(int order, Boundary boundary, bool transposed, Index first, Index step) const {
    with_tap_boundary(boundary, stored, [&](const auto& map) {
      for (Index i = first; i < stored; i += step)
        for (int d = -half; d <= half; ++d) {
          const Index j = map(i + d);
          if (j != outside_image) *(transposed ? at(j, i) : at(i, j)) += spline_weight(order, d < 0 ? -d : d);
        }
    });
  }

  PYSTN_HD void eliminate() const {
    for (Index k = 0; k < stored; ++k) {
      Index touched[6];  // rows below k, and columns beyond it, that are not zero there
      int count = 0;
      for (Index i = k + 1; i < stored && i <= k + half; ++i) touched[count++] = i;
      if (k < head)
        for (Index i = stored - border; i < stored; ++i)
          if (i > k + half) touched[count++] = i;
      const double inverse = 1.0 / *at(k, k);
      for (int a = 0; a < count; ++a) {
        double* const left = at(touched[a], k);
        *left *= inverse;
        for (int b = 0; b < count; ++b)
          if (double* const entry = at(touched[a], touched[b])) *entry -= *left * *at(k, touched[b]);
      }
      for (int a = 0; a < count; ++a) *at(k, touched[a]) *= inverse;
      *at(k, k) = inverse;
    }
  }

  // Solves in place for `lanes` lines, interleaved pixel by pixel. `reach` is `half`, known to the
  // compiler.
  template <int reach, int lanes>
  PYSTN_HD void solve(double* lines) const {
    constexpr int width = 2 * reach + 1;
    const Index middle = n - border;
    for (Index i = 0; i < n; ++i) {
      double* const line = lines + i * lanes;
      const double* const row = band + row_of(i) * width + reach;
      double value[lanes];
      for (int l = 0; l < lanes; ++l) value[l] = line[l];
      if (i >= middle)
        for (Index j = 0; j < head; ++j) subtract<lanes>(value, lower[(i - middle) * head + j], lines + j * lanes);
      if (i >= reach)
        for (int k = reach; k > 0; --k) subtract<lanes>(value, row[-k], line - k * lanes);
      else
        for (int k = int(i); k > 0; --k) subtract<lanes>(value, row[-k], line - k * lanes);
      for (int l = 0; l < lanes; ++l) line[l] = value[l];
    }
    for (Index i = n - 1; i >= 0; --i) {
      double* const line = lines + i * lanes;
      const double* const row = band + row_of(i) * width + reach;
      double value[lanes];
      for (int l = 0; l < lanes; ++l) value[l] = line[l] * row[0];
      if (i < head)
        for (Index j = 0; j < border; ++j) subtract<lanes>(value, upper[j * head + i], lines + (middle + j) * lanes);
      if (i + reach < n)
        for (int k = reach; k > 0; --k) subtract<lanes>(value, row[k], line + k * lanes);
      else
        for (int k = int(n - 1 - i); k > 0; --k) subtract<lanes>(value, row[k], line + k * lanes);
      for (int l = 0; l < lanes; ++l) line[l] = value[l];
    }
  }

  template <int lanes>
  static PYSTN_HD void subtract(double (&value)[lanes], double factor, const double* line) {
    for (int l = 0; l < lanes; ++l) value[l] -= factor * line[l];
  }
};

}  // namespace pystn::PYSTN_LEVEL
