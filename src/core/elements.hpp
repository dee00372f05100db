// What arrays are made of: loading an element into the arithmetic's type, and storing it back.
// Integers round half to even and saturate; NaN becomes 0. float16 and bfloat16 are 16-bit patterns.
#pragma once

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

enum class Type : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3, u8 = 4, i16 = 5, u16 = 6 };

PYSTN_HD unsigned bits_of(float x) {
  union {
    float number;
    unsigned bits;
  } both;
  both.number = x;
  return both.bits;
}

PYSTN_HD float float_of(unsigned bits) {
  union {
    unsigned bits;
    float number;
  } both;
  both.bits = bits;
  return both.number;
}

// To float so that rounding again to fewer bits gives what one rounding would: "to odd".
PYSTN_HD float narrowed(float x) { return x; }
PYSTN_HD float narrowed(double x) {
  const float near = float(x);
  const double back = double(near);
  if (back == x || !is_finite(near) || bits_of(near) & 1) return near;
  const bool away = absolute(back) > absolute(x);  // its last bit is 0: one step towards x makes it 1
  return float_of(away ? bits_of(near) - 1 : bits_of(near) + 1);
}

// No step has a denormal operand, which a device may take for zero.
PYSTN_HD float half_to_float(unsigned short h) {
  const unsigned sign = unsigned(h & 0x8000) << 16, rest = h & 0x7fff;
  const unsigned normal = (rest << 13) + (112u << 23), special = 0x7f800000 | (rest & 0x3ff) << 13;
  const unsigned subnormal = bits_of(float(int(rest)) * 0x1p-24f);
  return float_of(sign | (rest >= 0x7c00 ? special : rest < 0x400 ? subnormal : normal));
}

PYSTN_HD unsigned short float_to_half(float x) {
  const unsigned bits = bits_of(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return (unsigned short)(sign | 0x7e00);
  if (rest >= 0x477ff000) return (unsigned short)(sign | 0x7c00);  // from 65520 on it is infinity
  if (rest < 0x38800000)  // subnormal: adding 1/2 leaves the multiple of 2^-24 in the last bits
    return (unsigned short)(sign | (bits_of(float_of(rest) + 0.5f) - 0x3f000000));
  const unsigned odd = rest >> 13 & 1;
  return (unsigned short)(sign | (rest - 0x38000000 + 0xfff + odd) >> 13);
}

PYSTN_HD float bfloat_to_float(unsigned short b) { return float_of(unsigned(b) << 16); }

PYSTN_HD unsigned short float_to_bfloat(float x) {
  const unsigned bits = bits_of(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return (unsigned short)(bits >> 16 | 0x40);
  return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class R>
PYSTN_HD R rounded_between(R low, R x, R high) {
  x = x >= low ? round_of(x) : x == x ? low : R(0);
  return x < high ? x : high;
}

// Whether a value takes the place of the largest so far. NaN does, of numbers.
template <class R>
PYSTN_HD bool exceeds(R value, R most) {
  return value > most || (value != value && most == most);
}

// Numbers of 16 bits, which no type of the language is.
struct Half {
  unsigned short bits;
};
struct Bfloat {
  unsigned short bits;
};

// What is read from memory that nobody writes meanwhile: a device may read it early, and by another cache.
template <class T>
PYSTN_HD T only_read(const T* from) {
#if defined(__CUDA_ARCH__)
  return __ldg(from);
#else
  return *from;
#endif
}
PYSTN_HD Half only_read(const Half* from) { return {only_read(&from->bits)}; }
PYSTN_HD Bfloat only_read(const Bfloat* from) { return {only_read(&from->bits)}; }

PYSTN_HD float number_of(float x) { return x; }
PYSTN_HD double number_of(double x) { return x; }
PYSTN_HD float number_of(Half x) { return half_to_float(x.bits); }
PYSTN_HD float number_of(Bfloat x) { return bfloat_to_float(x.bits); }
PYSTN_HD float number_of(unsigned char x) { return float(x); }
PYSTN_HD float number_of(short x) { return float(x); }
PYSTN_HD float number_of(unsigned short x) { return float(x); }

template <class R>
PYSTN_HD void assign(float& to, R x) {
  to = float(x);
}
template <class R>
PYSTN_HD void assign(double& to, R x) {
  to = double(x);
}
template <class R>
PYSTN_HD void assign(Half& to, R x) {
  to.bits = float_to_half(narrowed(x));
}
template <class R>
PYSTN_HD void assign(Bfloat& to, R x) {
  to.bits = float_to_bfloat(narrowed(x));
}
template <class R>
PYSTN_HD void assign(unsigned char& to, R x) {
  to = (unsigned char)rounded_between(R(0), x, R(255));
}
template <class R>
PYSTN_HD void assign(short& to, R x) {
  to = short(rounded_between(R(-32768), x, R(32767)));
}
template <class R>
PYSTN_HD void assign(unsigned short& to, R x) {
  to = (unsigned short)rounded_between(R(0), x, R(65535));
}

// Calls body(pointer of the elements' type).
template <class Body>
PYSTN_HD void with_elements(void* data, Type type, Body&& body) {
  switch (type) {
    case Type::f32:
      return body(static_cast<float*>(data));
    case Type::f64:
      return body(static_cast<double*>(data));
    case Type::f16:
      return body(static_cast<Half*>(data));
    case Type::bf16:
      return body(static_cast<Bfloat*>(data));
    case Type::u8:
      return body(static_cast<unsigned char*>(data));
    case Type::i16:
      return body(static_cast<short*>(data));
    case Type::u16:
      return body(static_cast<unsigned short*>(data));
  }
}

// Elements of one type, known to the compiler. `read` is `load` by way of only_read.
template <class T>
struct Elements {
  static constexpr bool typed = true, wide = sizeof(T) >= 4;  // a type that sums are in

  template <class R>
  static PYSTN_HD R load(const void* data, Type /*type*/, Index i) {
    return R(number_of(static_cast<const T*>(data)[i]));
  }
  template <class R>
  static PYSTN_HD R read(const void* data, Type /*type*/, Index i) {
    return R(number_of(only_read(static_cast<const T*>(data) + i)));
  }
  template <class R>
  static PYSTN_HD void store(void* data, Type /*type*/, Index i, R x) {
    assign(static_cast<T*>(data)[i], x);
  }
};

// Elements of any type, known when it runs.
struct Any {};

template <>
struct Elements<Any> {
  static constexpr bool typed = false, wide = false;

  template <class R>
  static PYSTN_HD R load(const void* data, Type type, Index i) {
    R x = R(0);
    with_elements(const_cast<void*>(data), type, [&](const auto* elements) { x = R(number_of(elements[i])); });
    return x;
  }
  template <class R>
  static PYSTN_HD R read(const void* data, Type type, Index i) {
    R x = R(0);
    with_elements(const_cast<void*>(data), type, [&](const auto* of) { x = R(number_of(only_read(of + i))); });
    return x;
  }
  template <class R>
  static PYSTN_HD void store(void* data, Type type, Index i, R x) {
    with_elements(data, type, [&](auto* elements) { assign(elements[i], x); });
  }
};

}  // namespace pystn::PYSTN_LEVEL
