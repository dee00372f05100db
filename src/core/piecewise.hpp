// Maps that are affine in each of some triangles: every point is a sum of three corners with weights of its own.
#pragma once

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

template <class R>
PYSTN_HD R weighted_corners(R first, R second, R third, R of_first, R of_second, R of_third) {
  return first * of_first + second * of_second + third * of_third;
}

}  // namespace pystn::PYSTN_LEVEL
