// Sums that are bitwise the same in every order of their terms: integers, in units that each cell has of its own.
//
// The terms are walked twice. The first walk finds the largest exponent among those of each cell, the second adds them
// up in units of 2^-58 of that power of two. Neither maxima nor sums of integers depend on the order. A term loses what
// is below its cell's unit, rounded half to even; the sum itself is exact, and rounded once when it is stored.
#pragma once

#include "elements.hpp"
#include "job.cuh"

namespace pystn::PYSTN_LEVEL {

enum class Walk : int { exponents = 0, sums = 1 };

struct Cell {
  unsigned long long sum;  // the lowest bits, of a signed number
  int carries;             // the others: the sum is carries 2^64 + (long long)sum
  unsigned state;          // the largest exponent, 0 where there is no term, and flags
};

// A cell takes 2^37 of its largest terms, so many are the bits that the carries have beyond those of a term.
constexpr int bits_below_mantissa = 5;
constexpr unsigned exponent_of_cell = 0x7ff, has_nan = 1u << 12, has_plus = 1u << 13, has_minus = 1u << 14;

PYSTN_HD unsigned long long bits_of(double x) {
  union {
    double number;
    unsigned long long bits;
  } both;
  both.number = x;
  return both.bits;
}

// A finite number, +-mantissa 2^(exponent - 1075), as a double has it: the mantissa is below 2^53, the exponent 1 to
// 2046. Found without arithmetic in double, which many devices have little of.
struct Term {
  unsigned long long mantissa;
  int exponent;
  bool negative;

  explicit PYSTN_HD Term(float x) {
    const unsigned bits = bits_of(x);
    const int field = int(bits >> 23 & 0xff);
    mantissa = (unsigned long long)(field ? (bits & 0x7fffff) | 0x800000 : bits & 0x7fffff) << 29;
    exponent = (field ? field : 1) + 896;
    negative = bits >> 31;
  }
  explicit PYSTN_HD Term(double x) {
    const unsigned long long bits = bits_of(x), fraction = bits & 0xfffffffffffffull;
    const int field = int(bits >> 52 & 0x7ff);
    mantissa = field ? fraction | 0x10000000000000ull : fraction;
    exponent = field ? field : 1;
    negative = bits >> 63;
  }

  // In units of 2^-58 of the power of two that no term of the cell reaches, to the nearest, ties to even.
  PYSTN_HD unsigned long long in_units(int largest) const {
    const int down = largest - exponent - bits_below_mantissa;
    unsigned long long units = 0;
    if (down <= 0) {
      units = mantissa << -down;
    } else if (down < 55) {
      const unsigned long long odd = mantissa >> down & 1;
      units = (mantissa + (1ull << (down - 1)) - 1 + odd) >> down;
    }
    return negative ? 0 - units : units;
  }
};

template <class R>
PYSTN_HD void add_to_cell(Cell& cell, Walk walk, R value) {
  if (!is_finite(value)) {
    if (walk == Walk::sums) atomicOr(&cell.state, value != value ? has_nan : value > R(0) ? has_plus : has_minus);
    return;
  }
  const Term term(value);
  if (term.mantissa == 0) return;
  // Other threads may change the state meanwhile: in the first walk it grows, in the second its exponent stays.
  const unsigned state = cell.state;
  if (walk == Walk::exponents) {
    if (state < unsigned(term.exponent)) atomicMax(&cell.state, unsigned(term.exponent));
    return;
  }
  const unsigned long long units = term.in_units(int(state & exponent_of_cell));
  if (units == 0) return;
  const unsigned long long before = atomicAdd(&cell.sum, units);
  const long long now = (long long)(before + units);
  if (!term.negative && now < (long long)before) atomicAdd(&cell.carries, 1);
  if (term.negative && now > (long long)before) atomicAdd(&cell.carries, -1);
}

PYSTN_HD double sum_of(const Cell& cell) {
  const bool plus = cell.state & has_plus, minus = cell.state & has_minus;
  if (cell.state & has_nan || (plus && minus)) return infinity<double>() - infinity<double>();
  if (plus || minus) return plus ? infinity<double>() : -infinity<double>();
  // Where there are carries the sum is at least 2^63: nothing cancels.
  const double units = double(cell.carries) * 18446744073709551616.0 + double((long long)cell.sum);
  return ::ldexp(units, int(cell.state & exponent_of_cell) - 1075 - bits_below_mantissa);
}

constexpr int max_axes = 1 + 1 + max_ndim + 1;  // batch, channels, space, parts

// The cells in the order of the image's axes, contiguous; the image with its strides, all axes merged that can be.
struct CellsJob {
  const Cell* cells;
  void* image;
  Index count;
  Index shape[max_axes], stride[max_axes];
  int rank, type;  // float or double
};

template <class I>
__global__ void store_sums(const CellsJob job) {
  for (Index turn = Index(blockIdx.x) * blockDim.x + threadIdx.x; turn < job.count;
       turn += Index(gridDim.x) * blockDim.x) {
    I rest = I(turn), at = 0;
    for (int a = job.rank - 1; a > 0; --a) {
      const I length = I(job.shape[a]);
      at += rest % length * I(job.stride[a]);
      rest /= length;
    }
    at += rest * I(job.stride[0]);
    const double sum = sum_of(job.cells[turn]);
    if (Type(job.type) == Type::f32)
      static_cast<float*>(job.image)[at] = float(sum);
    else
      static_cast<double*>(job.image)[at] = sum;
  }
}

}  // namespace pystn::PYSTN_LEVEL
