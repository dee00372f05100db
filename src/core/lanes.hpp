// Arithmetic that is written once for a number and for vectors of numbers, of compilers that have these: X is R, or has
// one R in each of its lanes. The same operations in the same order, so the same bits.
#pragma once

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

// x in every lane.
template <class X, class R>
PYSTN_HD X spread(R x) {
  return x - X{};
}

template <class X>
PYSTN_HD X absolute(X x) {
  return x < X{} ? -x : x;
}

// The nearest whole number, ties to the even one, of numbers less than 2^22.
template <class R>
PYSTN_HD float whole_of(float x) {
  return round_of(x);
}
template <class R>
PYSTN_HD double whole_of(double x) {
  return round_of(x);
}

// 2^k of whole numbers k, for results that are neither denormal nor infinite.
template <class R>
PYSTN_HD float power_of_two(float k) {
  union {
    unsigned bits;
    float number;
  } power;
  power.bits = unsigned(int(k) + 127) << 23;
  return power.number;
}
template <class R>
PYSTN_HD double power_of_two(double k) {
  union {
    unsigned long long bits;
    double number;
  } power;
  power.bits = (unsigned long long)(int(k) + 1023) << 52;
  return power.number;
}

#if defined(__GNUC__) && !defined(__CUDACC__)
// Of vectors: numbers this large, 3/2 of a power of two, have no digits behind the point.
template <class R>
constexpr R large = R(sizeof(R) == 4 ? 12582912.0 : 6755399441055744.0);

template <class R, class X>
PYSTN_HD X whole_of(X x) {
  const X whole = x + large<R>;
  return whole - large<R>;
}
template <class R, class X>
PYSTN_HD X power_of_two(X k) {
  auto bits = X{} < X{};
  k += large<R> + R(sizeof(R) == 4 ? 127 : 1023);
  static_assert(sizeof bits == sizeof k, "a lane of bits for each number");
  __builtin_memcpy(&bits, &k, sizeof k);
  bits <<= sizeof(R) == 4 ? 23 : 52;
  __builtin_memcpy(&k, &bits, sizeof k);
  return k;
}
#endif

// exp(x), 0 where that is denormal, of x <= 0, without calls, so that loops over it vectorise, and the same everywhere:
// 2^k exp(r) with r within ln(2) / 2 of 0, by Taylor's series to half a unit in the last place.
template <class R, class X>
PYSTN_HD X falling_exp(X x) {
  constexpr bool single = sizeof(R) == 4;
  constexpr double factorials[] = {6227020800, 479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6};
  const R lowest = R(single ? -87 : -708);
  const X z = x > lowest ? x : spread<X>(lowest);
  const X k = whole_of<R>(z * R(single ? 1.44269504f : 1.4426950408889634));
  const X r = (z - k * R(single ? 0.693145752f : 0.69314718036912382)) -
              k * R(single ? 1.42860677e-06f : 1.9082149292705877e-10);
  X tail = spread<X>(R(1) / R(factorials[single ? 6 : 0]));
  for (int j = single ? 7 : 1; j < 11; ++j) tail = R(1) / R(factorials[j]) + r * tail;
  const X e = (R(1) + (r + r * r * (R(0.5) + r * tail))) * power_of_two<R>(k);
  return x > lowest ? e : X{};
}

// Coefficients of the series of (sin(z) - z cos(z)) / z^3 and of sin(z) / z, in powers of z^2.
template <class R>
struct CotangentSeries {
  static constexpr int terms = sizeof(R) == 4 ? 7 : 12;
  R above[terms], below[terms];

  PYSTN_HD constexpr CotangentSeries() : above(), below() {
    double inverse = 1;  // (-1)^j / (2j + 1)!
    for (int j = 0; j < terms; ++j) {
      const double next = inverse / ((2 * j + 2) * (2 * j + 3));
      above[j] = R((2 * j + 2) * next);
      below[j] = R(inverse);
      inverse = -next;
    }
  }
};

// (1 - z cot(z)) / z^2 of y = z^2, for |z| <= pi / 2: to some units in the last place, and without cancellation.
template <class R, class X>
PYSTN_HD X cotangent_rest(X y) {
  constexpr CotangentSeries<R> series;
  constexpr int last = CotangentSeries<R>::terms - 1;
  X above = spread<X>(series.above[last]), below = spread<X>(series.below[last]);
  PYSTN_UNROLL
  for (int j = last - 1; j >= 0; --j) {
    above = series.above[j] + y * above;
    below = series.below[j] + y * below;
  }
  return above / below;
}

}  // namespace pystn::PYSTN_LEVEL
