// Taps: the pixels that one sample reads, with their weights.
//
// On one axis a kernel gives S taps; a sample in ND dimensions reads the S^ND products of them.
// Every operation is a loop over these: forward sums w * pixel, the gradient to the grid sums
// slope * pixel, the gradient to the input adds w * cotangent to the pixel.
#pragma once

#include "interpolation.hpp"
#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

PYSTN_HD constexpr int power(int base, int exponent) { return exponent == 0 ? 1 : base * power(base, exponent - 1); }

template <class Kernel, int ND, class R>
struct Taps {
  static constexpr int capacity = power(Kernel::taps, ND);

  int count;               // taps inside the window; those outside read zero and are left out
  Index offset[capacity];  // elements from the image's first pixel
  R weight[capacity];
  R slope[ND][capacity];  // d weight / d p, axis by axis

  // `position` in pixels of the window whose pixels are low <= index < high; all per axis, x first.
  PYSTN_HD Taps(const R* position, const Index* low, const Index* high, const Index* stride, const R* tolerance) {
    constexpr int S = Kernel::taps;
    Index first[ND], start = 0;
    R w[ND][S], dw[ND][S];
    bool interior = !Kernel::has_idle_taps;
    for (int a = 0; a < ND; ++a) {
      first[a] = Kernel::at(position[a], tolerance[a], w[a], dw[a]);
      interior = interior && first[a] >= low[a] && first[a] + S <= high[a];
      start += first[a] * stride[a];
    }
    count = interior ? capacity : 0;
    for (int k = 0; k < capacity; ++k) {
      int tap[ND];
      bool inside = true;
      Index o = start;
      for (int a = 0, rest = k; a < ND; ++a, rest /= S) {
        tap[a] = rest % S;
        const Index i = first[a] + tap[a];
        inside = inside && i >= low[a] && i < high[a];
        // Not to read NaN where nothing is read for.
        if (Kernel::has_idle_taps) inside = inside && (w[a][tap[a]] != R(0) || dw[a][tap[a]] != R(0));
        o += tap[a] * stride[a];
      }
      if (!interior && !inside) continue;
      const int slot = interior ? k : count++;
      R product = R(1);
      for (int a = 0; a < ND; ++a) product *= w[a][tap[a]];
      offset[slot] = o;
      weight[slot] = product;
      for (int a = 0; a < ND; ++a) {
        R s = dw[a][tap[a]];
        for (int b = 0; b < ND; ++b)
          if (b != a) s *= w[b][tap[b]];
        slope[a][slot] = s;
      }
    }
  }
};

}  // namespace pystn::PYSTN_LEVEL
