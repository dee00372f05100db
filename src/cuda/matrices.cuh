// Exponentials of matrices, one in a thread.
#pragma once

#include "../core/exponential.hpp"
#include "threads.cuh"

namespace pystn::PYSTN_LEVEL {

struct ExponentialJob {
  const double* generator;  // (count, rows, rows)
  double* matrix;           // likewise: their exponentials
  double* scratch;          // (Exponential::matrices, rows, rows, threads), for kernels of any number of rows
  Index count, rows;
};

// Of so many rows, or of any if `fixed` is 0: then the memory of threads is interleaved.
template <int fixed>
__global__ void exponential(ExponentialJob job) {
  using Matrix = Exponential<double, fixed>;
  double own[fixed ? Matrix::matrices * fixed * fixed : 1];
  const Matrix matrix{int(job.rows), turn_stride(), fixed ? own : job.scratch + first_turn()};
  for (Index turn = first_turn(); turn < job.count; turn += turn_stride()) {
    const double* const from = job.generator + turn * matrix.size();
    double *const to = job.matrix + turn * matrix.size(), *const entry = matrix.first();
    PYSTN_UNROLL
    for (int e = 0; e < matrix.size(); ++e) entry[matrix.at(e)] = from[e];
    matrix.run();
    PYSTN_UNROLL
    for (int e = 0; e < matrix.size(); ++e) to[e] = entry[matrix.at(e)];
  }
}

}  // namespace pystn::PYSTN_LEVEL
