// Exponentials of matrices and their derivatives, some matrices together, one in each lane of a vector.
#pragma once

#include <stdint.h>

#include "exponential.hpp"
#include "job.hpp"
#include "vectors.hpp"

namespace pystn::PYSTN_LEVEL {

template <int order, int fixed>
struct MatrixExponentials {
  using X = typename NumberOfOrder<Doubles, order>::Type;
  using Matrices = Exponential<X, fixed>;
  static constexpr int lanes = Matrices::lanes;

  static int64_t scratch(const ExponentialJob& job) {
    return int64_t(sizeof(X)) * (Matrices::matrices * job.rows * job.rows + 1);
  }

  static void forward(const ExponentialJob& job, int64_t task, void* scratch) {
    X own[fixed ? Matrices::matrices * fixed * fixed : 1];
    const uintptr_t past = uintptr_t(scratch) + sizeof(Doubles) - 1;
    X* const given = reinterpret_cast<X*>(past - past % sizeof(Doubles));
    const Matrices matrices{int(job.rows), 1, fixed ? own : given};
    const int64_t first = task * exponentials_together, end = first + exponentials_together;
    const int64_t last = end < job.count ? end : job.count;
    for (int64_t i = first; i < last; i += lanes) some(matrices, job, i, last);
  }

 private:
  // Beyond the last matrix lanes have that one again.
  static PYSTN_HD void some(const Matrices& matrices, const ExponentialJob& job, int64_t first, int64_t last) {
    const int64_t size = matrices.size();
    int64_t start[lanes];
    for (int l = 0; l < lanes; ++l) start[l] = (first + l < last ? first + l : last - 1) * size;
    const auto from = [&](const double* array, int e) {
      Doubles entry{};
      for (int l = 0; l < lanes; ++l) set_lane(entry, l, array[start[l] + e]);
      return entry;
    };
    const auto read = [&](int e) {
      const Doubles none{};
      return MatrixNumber<X>::of(from(job.generator, e), order > 0 ? from(job.along, e) : none,
                                 order > 1 ? from(job.then, e) : none);
    };
    const int count = int(last - first < lanes ? last - first : lanes);
    matrices.run(read, [&](int e, const Doubles& entry) {
      for (int l = 0; l < count; ++l) job.matrix[start[l] + e] = lane(entry, l);
    });
  }
};

}  // namespace pystn::PYSTN_LEVEL
