// The exponential of square matrices in double, by scaling and squaring (Higham, 2005), and its derivatives. Numbers
// are double, or have a matrix in each of their lanes: the same operations in the same order, so the same bits. Around
// them there may be a Dual, for the derivative along a direction, or two, for that of the derivative along another.
#pragma once

#include "dual.hpp"
#include "lanes.hpp"

namespace pystn::PYSTN_LEVEL {

// ---- Lanes, one by one

PYSTN_HD double lane(double x, int) { return x; }
PYSTN_HD void set_lane(double& x, int, double value) { x = value; }
PYSTN_HD bool any_lane(bool holds) { return holds; }
#if defined(__GNUC__) && !defined(__CUDACC__)
template <class R>
PYSTN_HD double lane(const R& x, int l) {
  return x[l];
}
template <class R>
PYSTN_HD void set_lane(R& x, int l, double value) {
  x[l] = value;
}
template <class Mask>
PYSTN_HD bool any_lane(const Mask& holds) {
  auto any = holds[0];
  for (int l = 1; l < int(sizeof holds / sizeof any); ++l) any |= holds[l];
  return any != 0;
}
#endif

// The e of m 2^e, m in [1/2, 1), of normal numbers x >= 0; of others less than -1021 or more than 1024.
PYSTN_HD int exponent_of(double x) {
  union {
    double number;
    unsigned long long bits;
  } read;
  read.number = x;
  return int(read.bits >> 52) - 1022;
}

// ---- Numbers X of matrices, by what is within all of their duals: R.

template <class X>
struct MatrixNumber {
  using R = X;
  static constexpr int order = 0;  // of the derivative

  static PYSTN_HD X of(R x, R, R) { return x; }
  static PYSTN_HD R value(const X& x) { return x; }
  static PYSTN_HD R last(const X& x) { return x; }         // the derivative of that order
  static PYSTN_HD R nothing(const X& x) { return x - x; }  // 0, or NaN of what is not finite
  static PYSTN_HD X inverse(const X& x) { return 1.0 / x; }
  template <class Factor>
  static PYSTN_HD X times(const X& x, const Factor& factor) {
    return x * factor;
  }
  static PYSTN_HD X plus(const X& x, double constant) { return x + constant; }
  template <class Mask>
  static PYSTN_HD X chosen(const Mask& wanted, const X& a, const X& b) {
    return wanted ? a : b;
  }
};
template <class Y>
struct MatrixNumber<Dual<Y>> {
  using X = Dual<Y>;
  using Inner = MatrixNumber<Y>;
  using R = typename Inner::R;
  static constexpr int order = Inner::order + 1;

  // The second dual moves x by `then`, and not the direction of the first.
  static PYSTN_HD X of(R x, R along, R then) { return {Inner::of(x, along, then), order == 1 ? Y(along) : Y(then)}; }
  static PYSTN_HD R value(const X& x) { return Inner::value(x.value); }
  static PYSTN_HD R last(const X& x) { return Inner::last(x.tangent); }
  static PYSTN_HD R nothing(const X& x) { return Inner::nothing(x.value) + Inner::nothing(x.tangent); }
  static PYSTN_HD X inverse(const X& x) {
    const Y value = Inner::inverse(x.value);
    return {value, -(value * x.tangent * value)};
  }
  template <class Factor>
  static PYSTN_HD X times(const X& x, const Factor& factor) {
    return {Inner::times(x.value, factor), Inner::times(x.tangent, factor)};
  }
  static PYSTN_HD X plus(const X& x, double constant) { return {Inner::plus(x.value, constant), x.tangent}; }
  template <class Mask>
  static PYSTN_HD X chosen(const Mask& wanted, const X& a, const X& b) {
    return {Inner::chosen(wanted, a.value, b.value), Inner::chosen(wanted, a.tangent, b.tangent)};
  }
};

// Of matrices of `fixed` rows or, if that is 0, of `rows`. These and what is computed of them are `matrices` stretches
// of memory of the caller, each with an entry at every `step`, or if `fixed` side by side.
template <class X, int fixed>
struct Exponential {
  using Number = MatrixNumber<X>;
  using R = typename Number::R;
  static constexpr int matrices = 6, lanes = int(sizeof(R) / sizeof(double));

  int rows;
  Index step;
  X* memory;

  PYSTN_HD int n() const { return fixed ? fixed : rows; }
  PYSTN_HD int size() const { return n() * n(); }
  PYSTN_HD Index at(int entry) const { return fixed ? entry : entry * step; }
  PYSTN_HD Index at(int i, int j) const { return at(i * n() + j); }
  PYSTN_HD X* matrix(int which) const { return memory + at(which * size()); }

  // Entries of the matrix are made by read(e); write(e, entry) is given those of the exponential or of the derivative.
  // They are NaN if one of those that are read is not finite.
  template <class Read, class Write>
  PYSTN_HD void run(Read&& read, Write&& write) const {
    X *const result = matrix(0), *const other = matrix(1);
    R nothing{};
    PYSTN_UNROLL
    for (int e = 0; e < size(); ++e) {
      const X entry = read(e);
      nothing += Number::nothing(entry);
      other[at(e)] = entry;
    }
    const R squarings = scale(other, nothing);
    approximate();
    int most = 0;
    for (int l = 0; l < lanes; ++l) {
      const int own = int(lane(squarings, l));
      most = own > most ? own : most;
    }
    for (int done = 0; done < most; ++done) {
      multiply(result, result, other);
      const auto wanted = spread<R>(double(done)) < squarings;
      PYSTN_UNROLL
      for (int e = 0; e < size(); ++e) result[at(e)] = Number::chosen(wanted, other[at(e)], result[at(e)]);
    }
    PYSTN_UNROLL
    for (int e = 0; e < size(); ++e) write(e, Number::last(result[at(e)]) + nothing);
  }

 private:
  // The approximant is exact to double for 1-norms up to this (Higham, 2005); its derivative (Al-Mohy and Higham, 2009)
  // and the next for less, as a power x^k that is left out has k and k^2 times as much of a part in them.
  static constexpr double radius = Number::order == 0 ? 5.371920351148152 : Number::order == 1 ? 4.74 : 4.4;

  // Coefficients of its numerator; those of its denominator have the signs of (-1)^power.
  static PYSTN_HD constexpr double pade(int power) {
    constexpr double whole[2][7] = {
        {64764752532480000, 7771770303897600, 129060195264000, 670442572800, 1323241920, 960960, 182},
        {32382376266240000, 1187353796428800, 10559470521600, 33522128640, 40840800, 16380, 1},
    };
    return whole[power % 2][power / 2] / whole[0][0];
  }

  // x becomes x 2^-k, whose 1-norm is within the radius; returns k, 0 if x is not finite.
  PYSTN_HD R scale(X* x, const R& nothing) const {
    constexpr int shift = 10;  // that no norm overflows
    constexpr double small = 1.0 / (1 << shift);
    R norm{};
    PYSTN_UNROLL
    for (int j = 0; j < n(); ++j) {
      R sum{};
      PYSTN_UNROLL
      for (int i = 0; i < n(); ++i) sum += absolute(Number::value(x[at(i, j)])) * small;
      norm = sum > norm ? sum : norm;
    }
    norm = nothing == R{} ? norm / radius : R{};
    R squarings{}, first{}, second{};  // two factors, as one might be denormal
    for (int l = 0; l < lanes; ++l) {
      const int needed = exponent_of(lane(norm, l)) + shift, own = needed > 0 ? needed : 0, half = own / 2;
      set_lane(squarings, l, own);
      set_lane(first, l, power_of_two<double>(-double(half)));
      set_lane(second, l, power_of_two<double>(-double(own - half)));
    }
    PYSTN_UNROLL
    for (int e = 0; e < size(); ++e) x[at(e)] = Number::times(Number::times(x[at(e)], first), second);
    return squarings;
  }

  // Of degree 13: matrix 0 becomes (even - odd)^-1 (even + odd) of matrix 1, the sums of its even and odd powers.
  PYSTN_HD void approximate() const {
    X *const even = matrix(0), *const x = matrix(1), *const odd = matrix(5);
    const X *const x2 = matrix(2), *const x4 = matrix(3), *const x6 = matrix(4);
    multiply(x, x, matrix(2));
    multiply(x2, x2, matrix(3));
    multiply(x4, x2, matrix(4));
    PYSTN_UNROLL
    for (int e = 0; e < size(); ++e) odd[at(e)] = combined(e, 9);
    multiply(x6, odd, even);
    add(even, 1);
    multiply(x, even, odd);
    PYSTN_UNROLL
    for (int e = 0; e < size(); ++e) x[at(e)] = combined(e, 8);
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

  // Entry e of a sum of x^2, x^4 and x^6, by the coefficients of every other power, the least of which is `power`.
  PYSTN_HD X combined(int e, int power) const {
    const X x2 = matrix(2)[at(e)], x4 = matrix(3)[at(e)], x6 = matrix(4)[at(e)];
    return Number::times(x6, pade(power + 4)) + Number::times(x4, pade(power + 2)) + Number::times(x2, pade(power));
  }
  // That is added, and the identity by the coefficient of `power`.
  PYSTN_HD void add(X* to, int power) const {
    PYSTN_UNROLL
    for (int e = 0; e < size(); ++e) to[at(e)] += combined(e, power + 2);
    PYSTN_UNROLL
    for (int i = 0; i < n(); ++i) to[at(i, i)] = Number::plus(to[at(i, i)], pade(power));
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
        const auto larger = absolute(Number::value(a[at(i, k)])) > absolute(Number::value(a[at(k, k)]));
        if (fixed == 0 && !any_lane(larger)) continue;
        PYSTN_UNROLL
        for (int j = k; j < n(); ++j) exchange(larger, a[at(k, j)], a[at(i, j)]);
        PYSTN_UNROLL
        for (int j = 0; j < n(); ++j) exchange(larger, right[at(k, j)], right[at(i, j)]);
      }
      const X inverse = Number::inverse(a[at(k, k)]);
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
    a = Number::chosen(wanted, after, before);
    b = Number::chosen(wanted, before, after);
  }
};

// The number of a derivative of an order.
template <class R, int order>
struct NumberOfOrder {
  using Type = Dual<typename NumberOfOrder<R, order - 1>::Type>;
};
template <class R>
struct NumberOfOrder<R, 0> {
  using Type = R;
};

}  // namespace pystn::PYSTN_LEVEL
