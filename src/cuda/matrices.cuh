// Exponentials of matrices and their derivatives, a matrix in a thread.
#pragma once

#include "exponential.hpp"
#include "threads.cuh"

namespace pystn::PYSTN_LEVEL {

struct ExponentialJob {
  // Of (count, rows, rows): the exponentials of generators, or their derivatives along a direction, or how these move
  // with the generators, which move by `then`.
  const double* generator;
  const double* along;
  const double* then;
  double* matrix;
  double* scratch;  // (Exponential::matrices, rows, rows, threads) numbers, for kernels of any number of rows
  Index count, rows;
};

// A derivative of that order, 0 for none, of matrices of so many rows, or of any if `fixed` is 0: then the scratch
// memory of threads is interleaved.
template <int order, int fixed>
__global__ void exponential(ExponentialJob job) {
  using X = typename NumberOfOrder<double, order>::Type;
  using Matrix = Exponential<X, fixed>;
  X own[fixed ? Matrix::matrices * fixed * fixed : 1];
  X* const given = reinterpret_cast<X*>(job.scratch) + first_turn();
  const Matrix matrix{int(job.rows), turn_stride(), fixed ? own : given};
  for (Index turn = first_turn(); turn < job.count; turn += turn_stride()) {
    const Index start = turn * matrix.size();
    const auto read = [&](int e) {
      return MatrixNumber<X>::of(job.generator[start + e], order > 0 ? job.along[start + e] : 0,
                                 order > 1 ? job.then[start + e] : 0);
    };
    matrix.run(read, [&](int e, double entry) { job.matrix[start + e] = entry; });
  }
}

}  // namespace pystn::PYSTN_LEVEL
