// Numbers with a tangent: a function written for any arithmetic also has its directional derivative.
#pragma once

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

template <class R>
struct Dual {
  R value, tangent;

  Dual() = default;
  PYSTN_HD Dual(R value) : value(value), tangent() {}
  PYSTN_HD Dual(R value, R tangent) : value(value), tangent(tangent) {}
  template <class Other>
  explicit PYSTN_HD Dual(const Dual<Other>& x) : value(R(x.value)), tangent(R(x.tangent)) {}

  friend PYSTN_HD Dual operator-(Dual a) { return {-a.value, -a.tangent}; }
  friend PYSTN_HD Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.tangent + b.tangent}; }
  friend PYSTN_HD Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.tangent - b.tangent}; }
  friend PYSTN_HD Dual operator*(Dual a, Dual b) {
    return {a.value * b.value, a.tangent * b.value + a.value * b.tangent};
  }
  friend PYSTN_HD Dual operator*(R a, Dual b) { return {a * b.value, a * b.tangent}; }
  friend PYSTN_HD Dual operator*(Dual a, R b) { return {a.value * b, a.tangent * b}; }
  friend PYSTN_HD Dual operator/(Dual a, Dual b) {
    const R value = a.value / b.value;
    return {value, (a.tangent - value * b.tangent) / b.value};
  }
  friend PYSTN_HD Dual operator/(Dual a, R b) { return {a.value / b, a.tangent / b}; }
  PYSTN_HD Dual& operator+=(Dual b) { return *this = *this + b; }
  PYSTN_HD Dual& operator-=(Dual b) { return *this = *this - b; }
  PYSTN_HD Dual& operator*=(Dual b) { return *this = *this * b; }
};

// The arithmetic under a type: R of R and of Dual<R>.
template <class X>
struct Arithmetic {
  using Real = X;
  static constexpr bool dual = false;
};
template <class R>
struct Arithmetic<Dual<R>> {
  using Real = R;
  static constexpr bool dual = true;
};
template <class X>
using RealOf = typename Arithmetic<X>::Real;

PYSTN_HD float value_of(float x) { return x; }
PYSTN_HD double value_of(double x) { return x; }
template <class R>
PYSTN_HD R value_of(Dual<R> x) {
  return x.value;
}

// The last derivative that a result holds: the number itself, or its tangent.
PYSTN_HD float last_of(float x) { return x; }
PYSTN_HD double last_of(double x) { return x; }
template <class R>
PYSTN_HD R last_of(Dual<R> x) {
  return x.tangent;
}

PYSTN_HD bool is_zero(float x) { return x == 0.0f; }
PYSTN_HD bool is_zero(double x) { return x == 0.0; }
template <class R>
PYSTN_HD bool is_zero(Dual<R> x) {
  return x.value == R(0) && x.tangent == R(0);
}

// f(x) of a function that is known with its derivative at the value of x.
PYSTN_HD float along(float /*x*/, float f, float /*slope*/) { return f; }
PYSTN_HD double along(double /*x*/, double f, double /*slope*/) { return f; }
template <class R>
PYSTN_HD Dual<R> along(Dual<R> x, R f, R slope) {
  return {f, slope * x.tangent};
}

PYSTN_HD float root_of(float x) { return ::sqrtf(x); }
PYSTN_HD double root_of(double x) { return ::sqrt(x); }
template <class R>
PYSTN_HD Dual<R> root_of(Dual<R> x) {
  const R root = root_of(x.value);
  return {root, x.tangent / (R(2) * root)};
}

}  // namespace pystn::PYSTN_LEVEL
