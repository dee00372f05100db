// The spline filter along one axis: a thread has a line. It goes there and back as SplineFactors::solve does, to the
// same bits, with what it needs of the last pixels in registers; what it has of all of them after the first way is in
// scratch memory, where the lines are interleaved.
#pragma once

#include "../core/splines.hpp"

namespace pystn::PYSTN_LEVEL {

constexpr int most_line_axes = 6;

struct SplineJob {
  const void* source;
  void* target;     // may be the source
  double* factors;  // as many as `most_factors`
  double* scratch;  // (length, count)
  Index length, source_step, target_step;
  // The lines: the other axes, the one of the least stride in the target first. A launch has `count` of them.
  Index shape[most_line_axes], source_stride[most_line_axes], target_stride[most_line_axes];
  Index first, count;
  int rank, order, boundary, unused;
};

constexpr int most_factors = int(spline_corner + spline_tail) * 7 + 2 * 3 * int(spline_corner);

// One block. A step of the elimination waits for the one before, so one thread makes them all.
template <bool transposed>
__global__ void spline_factors(SplineJob job) {
  __shared__ double memory[most_factors];
  const Boundary boundary = Boundary(job.boundary);
  const SplineFactors factors(job.order, boundary, job.length, memory);
  for (Index i = threadIdx.x; i < factors.size(); i += blockDim.x) memory[i] = 0;
  __syncthreads();
  factors.assemble(job.order, boundary, transposed, threadIdx.x, blockDim.x);
  __syncthreads();
  if (threadIdx.x == 0) factors.eliminate();
  __syncthreads();
  for (Index i = threadIdx.x; i < factors.size(); i += blockDim.x) job.factors[i] = memory[i];
}

// The pixels of a line that are loaded together, so that one wait is for all of them.
constexpr int spline_batch = 16;

// The last pixels that were solved, the nearest first. Pixels that are none are 0, as the factors there are.
template <int reach>
struct SolvedPixels {
  double last[reach] = {};

  PYSTN_HD void add(double value) {
    for (int k = reach - 1; k > 0; --k) last[k] = last[k - 1];
    last[0] = value;
  }
};

template <class R, int reach>
struct SplineLine {
  static constexpr int width = 2 * reach + 1;
  const SplineFactors factors;
  const R* source;
  R* target;
  double* scratch;
  Index source_step, target_step, scratch_step;
  Index middle;  // from here on rows of the factors are full

  PYSTN_HD const double* row(Index i) const { return factors.band + factors.row_of(i) * width + reach; }

  PYSTN_HD double forward(Index i, double value, SolvedPixels<reach>& solved) const {
    const double* const entries = row(i);
    for (int k = reach; k > 0; --k) value -= entries[-k] * solved.last[k - 1];
    solved.add(value);
    return value;
  }

  PYSTN_HD double backward(Index i, double value, SolvedPixels<reach>& solved) const {
    const double* const entries = row(i);
    for (int k = reach; k > 0; --k) value -= entries[k] * solved.last[k - 1];
    solved.add(value);
    return value;
  }

  // L y = source, y into the scratch memory.
  PYSTN_HD void eliminate() const {
    SolvedPixels<reach> solved;
    const R* const __restrict__ from = source;
    double* const __restrict__ to = scratch;
    for (Index start = 0; start < middle; start += spline_batch) {
      double value[spline_batch];
      for (int u = 0; u < spline_batch; ++u)
        value[u] = start + u < middle ? double(from[(start + u) * source_step]) : 0.0;
      for (int u = 0; u < spline_batch; ++u)
        if (start + u < middle) to[(start + u) * scratch_step] = forward(start + u, value[u], solved);
    }
    for (Index i = middle; i < factors.n; ++i) {
      const double* const full = factors.lower + (i - middle) * factors.head;
      double value = double(from[i * source_step]);
      for (Index j = 0; j < factors.head; ++j) value -= full[j] * to[j * scratch_step];
      to[i * scratch_step] = forward(i, value, solved);
    }
  }

  // D U target = y.
  PYSTN_HD void substitute() const {
    SolvedPixels<reach> solved;
    double end[reach] = {};  // the pixels from `middle` on
    const double* const __restrict__ from = scratch;
    R* const __restrict__ to = target;
    for (int j = reach - 1; j >= 0; --j) {
      const Index i = middle + j;
      if (i >= factors.n) continue;
      end[j] = backward(i, from[i * scratch_step] * row(i)[0], solved);
      to[i * target_step] = R(end[j]);
    }
    for (Index stop = middle; stop > 0; stop -= spline_batch) {
      double value[spline_batch];
      for (int u = 0; u < spline_batch; ++u) value[u] = stop - 1 - u >= 0 ? from[(stop - 1 - u) * scratch_step] : 0.0;
      for (int u = 0; u < spline_batch; ++u) {
        const Index i = stop - 1 - u;
        if (i < 0) continue;
        double sum = value[u] * row(i)[0];
        if (i < factors.head)
          for (int j = 0; j < reach; ++j)
            if (j < factors.border) sum -= factors.upper[j * factors.head + i] * end[j];
        to[i * target_step] = R(backward(i, sum, solved));
      }
    }
  }
};

template <class R, int reach>
__global__ void spline_filter(SplineJob job) {
  const SplineFactors factors(job.order, Boundary(job.boundary), job.length, job.factors);
  for (Index line = blockIdx.x * Index(blockDim.x) + threadIdx.x; line < job.count;
       line += gridDim.x * Index(blockDim.x)) {
    Index rest = job.first + line, source = 0, target = 0;
    for (int a = 0; a < job.rank; ++a) {
      const Index i = rest % job.shape[a];
      rest /= job.shape[a];
      source += i * job.source_stride[a];
      target += i * job.target_stride[a];
    }
    const SplineLine<R, reach> filter{factors,
                                      static_cast<const R*>(job.source) + source,
                                      static_cast<R*>(job.target) + target,
                                      job.scratch + line,
                                      job.source_step,
                                      job.target_step,
                                      job.count,
                                      job.length - factors.border};
    filter.eliminate();
    filter.substitute();
  }
}

}  // namespace pystn::PYSTN_LEVEL
