// The points of a part of them.
#pragma once

#include <stdint.h>

#include "job.hpp"

namespace pystn::PYSTN_LEVEL {

struct PointRange {
  int64_t first, last;

  PointRange(const PointParts& parts, int64_t part) : first(part * parts.size), last(first + parts.size) {
    if (last > parts.points) last = parts.points;
  }
};

}  // namespace pystn::PYSTN_LEVEL
