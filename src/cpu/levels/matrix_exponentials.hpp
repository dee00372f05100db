// Exponentials of matrices, some together, one in each lane of a vector.
#pragma once

#include <stdint.h>

#include "exponential.hpp"
#include "job.hpp"
#include "vectors.hpp"

namespace pystn::PYSTN_LEVEL {

// A task has so many; beyond the last matrix lanes have that one again.
template <int fixed>
struct MatrixExponentials {
  using Matrices = Exponential<Doubles, fixed>;
  static constexpr int lanes = lane_count<Doubles>;

  static int64_t scratch(const ExponentialJob& job) {
    return fixed ? 0 : int64_t(sizeof(Doubles)) * (Matrices::matrices * job.rows * job.rows + 1);
  }

  static void forward(const ExponentialJob& job, int64_t task, void* scratch) {
    Doubles own[fixed ? Matrices::matrices * fixed * fixed : 1];
    const uintptr_t past = uintptr_t(scratch) + sizeof(Doubles) - 1;
    const Matrices matrices{int(job.rows), 1, fixed ? own : reinterpret_cast<Doubles*>(past - past % sizeof(Doubles))};
    const int64_t first = task * exponentials_together, end = first + exponentials_together;
    const int64_t last = end < job.count ? end : job.count;
    for (int64_t i = first; i < last; i += lanes) some(matrices, job, i, last);
  }

 private:
  static PYSTN_HD void some(const Matrices& matrices, const ExponentialJob& job, int64_t first, int64_t last) {
    const int size = matrices.size();
    Doubles* const entry = matrices.first();
    const double* from[lanes];
    for (int l = 0; l < lanes; ++l) from[l] = job.generator + (first + l < last ? first + l : last - 1) * size;
    for (int e = 0; e < size; ++e) {
      Doubles together{};
      for (int l = 0; l < lanes; ++l) set_lane(together, l, from[l][e]);
      entry[e] = together;
    }
    matrices.run();
    for (int l = 0; l < lanes && first + l < last; ++l) {
      double* const to = job.matrix + (first + l) * size;
      for (int e = 0; e < size; ++e) to[e] = lane(entry[e], l);
    }
  }
};

}  // namespace pystn::PYSTN_LEVEL
