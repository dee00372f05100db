// The exponential of square matrices in double, by scaling and squaring (Higham, 2005). X is double, or has a matrix in
// each of its lanes: the same operations in the same order, so the same bits.
#pragma once

#include "lanes.hpp"

namespace pystn::PYSTN_LEVEL {

// ---- What is asked of lanes one by one

PYSTN_HD double lane(double x, int) { return x; }
PYSTN_HD void set_lane(double& x, int, double value) { x = value; }
PYSTN_HD bool any_lane(bool holds) { return holds; }
#if defined(__GNUC__) && !defined(__CUDACC__)
template <class X>
PYSTN_HD double lane(const X& x, int l) {
  return x[l];
}
template <class X>
PYSTN_HD void set_lane(X& x, int l, double value) {
  x[l] = value;
}
template <class Mask>
PYSTN_HD bool any_lane(const Mask& holds) {
  auto any = holds[0];
  for (int l = 1; l < int(sizeof holds / sizeof any); ++l) any |= holds[l];
  return any != 0;
}
#endif

template <class X>
constexpr int lane_count = int(sizeof(X) / sizeof(double));

template <class X>
PYSTN_HD X magnitude(X x) {
  return x < X{} ? -x : x;
}

// The e of m 2^e, m in [1/2, 1), of normal numbers x >= 0; of others less than -1021 or more than 1024.
PYSTN_HD int exponent_of(double x) {
  union {
    double number;
    unsigned long long bits;
  } read;
  read.number = x;
  return int(read.bits >> 52) - 1022;
}

// Of matrices of `fixed` rows or, if that is 0, of `rows`; these and what is computed of them are `matrices` stretches
// of memory of the caller, each with an element at every `step`, or if `fixed` side by side.
template <class X, int fixed>
struct Exponential {
  static constexpr int matrices = 6;

  int rows;
  Index step;
  X* memory;

  PYSTN_HD int n() const { return fixed ? fixed : rows; }
  PYSTN_HD int size() const { return n() * n(); }
  PYSTN_HD Index at(int entry) const { return fixed ? entry : entry * step; }
  PYSTN_HD Index at(int i, int j) const { return at(i * n() + j); }
  PYSTN_HD X* matrix(int which) const { return memory + at(which * size()); }

  // Where the matrices are read, and their exponentials are found in the end: NaN of what is not finite.
  PYSTN_HD X* first() const { return matrix(0); }

  PYSTN_HD void run() const {
    X *const result = matrix(0), *const other = matrix(1);
    const Scale scale = scaled(result, other);
    approximate();
    int most = 0;
    for (int l = 0; l < lane_count<X>; ++l) {
      const int own = int(lane(scale.squarings, l));
      most = own > most ? own : most;
    }
    for (int done = 0; done < most; ++done) {
      multiply(result, result, other);
      const X so_far = spread<X>(double(done));
      PYSTN_UNROLL
      for (int e = 0; e < size(); ++e) {
        X& entry = result[at(e)];
        entry = so_far < scale.squarings ? other[at(e)] : entry;
      }
    }
    PYSTN_UNROLL
    for (int e = 0; e < size(); ++e) result[at(e)] += scale.nothing;
  }

 private:
  // The approximant is exact to double for 1-norms up to this.
  static constexpr double radius = 5.371920351148152;

  // Coefficients of its numerator; those of its denominator have the signs of (-1)^power.
  static PYSTN_HD constexpr double pade(int power) {
    constexpr double whole[2][7] = {
        {64764752532480000, 7771770303897600, 129060195264000, 670442572800, 1323241920, 960960, 182},
        {32382376266240000, 1187353796428800, 10559470521600, 33522128640, 40840800, 16380, 1},
    };
    return whole[power % 2][power / 2] / whole[0][0];
  }

  struct Scale {
    X squarings;  // whole numbers
    X nothing;    // 0, or NaN where entries are not finite
  };

  // x 2^-squarings, whose 1-norm is within the radius.
  PYSTN_HD Scale scaled(const X* x, X* to) const {
    constexpr double small = 1.0 / 1024;  // that no norm overflows
    X norm{}, nothing{};
    PYSTN_UNROLL
    for (int j = 0; j < n(); ++j) {
      X sum{};
      PYSTN_UNROLL
      for (int i = 0; i < n(); ++i) {
        const X entry = x[at(i, j)];
        sum += magnitude(entry) * small;
        nothing += entry - entry;
      }
      norm = sum > norm ? sum : norm;
    }
    norm = nothing == X{} ? norm / radius : X{};
    X first{}, second{};  // of two factors, as one might be denormal
    Scale scale{X{}, nothing};
    for (int l = 0; l < lane_count<X>; ++l) {
      const int needed = exponent_of(lane(norm, l)) + 10, squarings = needed > 0 ? needed : 0;
      const int half = squarings / 2;
      set_lane(scale.squarings, l, squarings);
      set_lane(first, l, power_of_two<double>(-double(half)));
      set_lane(second, l, power_of_two<double>(-double(squarings - half)));
    }
    PYSTN_UNROLL
    for (int e = 0; e < size(); ++e) to[at(e)] = x[at(e)] * first * second;
    return scale;
  }

  // Of degree 13: matrix 0 becomes (even - odd)^-1 (even + odd) of matrix 1, the sums of its even and odd powers.
  PYSTN_HD void approximate() const {
    X *const even = matrix(0), *const x = matrix(1), *const odd = matrix(5);
    const X *const x2 = matrix(2), *const x4 = matrix(3), *const x6 = matrix(4);
    multiply(x, x, matrix(2));
    multiply(x2, x2, matrix(3));
    multiply(x4, x2, matrix(4));
    combine(odd, 9);
    multiply(x6, odd, even);
    add(even, 1);
    multiply(x, even, odd);
    combine(x, 8);
    multiply(x6, x, even);
    add(even, 0);
    PYSTN_UNROLL
    for (int e = 0; e < size(); ++e) {
      const X of_even = even[at(e)], of_odd = odd[at(e)];
      even[at(e)] = of_even + of_odd;
      odd[at(e)] = of_even - of_odd;
    }
    solve(odd, even);
  }

  // Sums of x2, x4 and x6 by the coefficients of every other power, the least of which is `power`.
  PYSTN_HD void combine(X* to, int power) const {
    const X *const x2 = matrix(2), *const x4 = matrix(3), *const x6 = matrix(4);
    const double b2 = pade(power), b4 = pade(power + 2), b6 = pade(power + 4);
    PYSTN_UNROLL
    for (int e = 0; e < size(); ++e) to[at(e)] = b6 * x6[at(e)] + b4 * x4[at(e)] + b2 * x2[at(e)];
  }
  // Those are added, and the identity by that of `power`.
  PYSTN_HD void add(X* to, int power) const {
    const X *const x2 = matrix(2), *const x4 = matrix(3), *const x6 = matrix(4);
    const double b0 = pade(power), b2 = pade(power + 2), b4 = pade(power + 4), b6 = pade(power + 6);
    PYSTN_UNROLL
    for (int e = 0; e < size(); ++e) to[at(e)] = to[at(e)] + b6 * x6[at(e)] + b4 * x4[at(e)] + b2 * x2[at(e)];
    PYSTN_UNROLL
    for (int i = 0; i < n(); ++i) to[at(i, i)] += b0;
  }

  PYSTN_HD void multiply(const X* a, const X* b, X* to) const {
    PYSTN_UNROLL
    for (int i = 0; i < n(); ++i) {
      if constexpr (fixed != 0) {
        multiply_row<fixed>(a, b, to, i, 0);
      } else {
        int j = 0;
        for (; j + 4 <= n(); j += 4) multiply_row<4>(a, b, to, i, j);
        for (; j + 2 <= n(); j += 2) multiply_row<2>(a, b, to, i, j);
        if (j < n()) multiply_row<1>(a, b, to, i, j);
      }
    }
  }
  // So many entries of row i of the product, which do not wait for each other.
  template <int count>
  PYSTN_HD void multiply_row(const X* a, const X* b, X* to, int i, int j) const {
    X sum[count];
    PYSTN_UNROLL
    for (int c = 0; c < count; ++c) sum[c] = a[at(i, 0)] * b[at(0, j + c)];
    PYSTN_UNROLL
    for (int k = 1; k < n(); ++k) {
      const X factor = a[at(i, k)];
      PYSTN_UNROLL
      for (int c = 0; c < count; ++c) sum[c] += factor * b[at(k, j + c)];
    }
    PYSTN_UNROLL
    for (int c = 0; c < count; ++c) to[at(i, j + c)] = sum[c];
  }

  // right becomes a^-1 right, by elimination with the largest entry of each column as its pivot; a is overwritten. Rows
  // change places one pair after the other, without indices that are looked up.
  PYSTN_HD void solve(X* a, X* right) const {
    PYSTN_UNROLL
    for (int k = 0; k < n(); ++k) {
      PYSTN_UNROLL
      for (int i = k + 1; i < n(); ++i) {
        const auto larger = magnitude(a[at(i, k)]) > magnitude(a[at(k, k)]);
        if (fixed == 0 && !any_lane(larger)) continue;
        PYSTN_UNROLL
        for (int j = k; j < n(); ++j) exchange(larger, a[at(k, j)], a[at(i, j)]);
        PYSTN_UNROLL
        for (int j = 0; j < n(); ++j) exchange(larger, right[at(k, j)], right[at(i, j)]);
      }
      const X inverse = 1.0 / a[at(k, k)];
      a[at(k, k)] = inverse;
      PYSTN_UNROLL
      for (int i = k + 1; i < n(); ++i) {
        const X factor = a[at(i, k)] * inverse;
        PYSTN_UNROLL
        for (int j = k + 1; j < n(); ++j) a[at(i, j)] -= factor * a[at(k, j)];
        PYSTN_UNROLL
        for (int j = 0; j < n(); ++j) right[at(i, j)] -= factor * right[at(k, j)];
      }
    }
    PYSTN_UNROLL
    for (int k = n() - 1; k >= 0; --k) {
      PYSTN_UNROLL
      for (int j = 0; j < n(); ++j) {
        const X solved = right[at(k, j)] * a[at(k, k)];
        right[at(k, j)] = solved;
        PYSTN_UNROLL
        for (int i = 0; i < k; ++i) right[at(i, j)] -= a[at(i, k)] * solved;
      }
    }
  }
  template <class Mask>
  static PYSTN_HD void exchange(const Mask& wanted, X& a, X& b) {
    const X before = a, after = b;
    a = wanted ? after : before;
    b = wanted ? before : after;
  }
};

}  // namespace pystn::PYSTN_LEVEL
