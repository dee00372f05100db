// The coverage of samples, and what its cotangent adds to the gradient to the coordinates: beside what a job's body
// does without a mask, chunk by chunk, for all kernels, types and layouts.
#pragma once

#include "elements.hpp"
#include "parts.hpp"
#include "run.hpp"

namespace pystn::PYSTN_LEVEL {

template <class R, int ND>
struct MaskSampler {
  static Index place_of(const SampleJob& job, int64_t n, const Span& span) {
    return n * job.mask.batch + offset_of(job, job.mask.axis, span);
  }

  template <class Body>
  static void for_each_run_of(const SampleJob& job, int64_t chunk, Body&& body) {
    for_each_strip(job, chunk % chunks_per_image(job),
                   [&](const Span& strip) { for_each_run(job, strip, [&](const Span& span) { body(span); }); });
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const Index column = column_stride(job, job.mask.axis);
    Run<R, ND> run;
    alignas(64) R mask[strip_columns];
    for_each_run_of(job, chunk, [&](const Span& span) {
      run.cover_pixels(job, n, span, mask);
      const Index at = place_of(job, n, span);
      with_elements(job.mask.data, Type(int(job.mask.type)), [&](auto* to) {
        for (int i = 0; i < span.count; ++i) assign(to[at + i * column], mask[i]);
      });
    });
  }

  // After the same direction without the mask, over the batch too if it shares a grid.
  static void vjp_grid(const SampleJob& job, int64_t chunk) {
    const int64_t n0 = chunk / chunks_per_image(job), n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    const Index column = column_stride(job, job.mask.axis);
    Run<R, ND> run;
    alignas(64) R through[ND][strip_columns];
    for_each_run_of(job, chunk, [&](const Span& span) {
      run.template place<1>(job, n0, span);
      for (int i = 0; i < span.count; ++i) {
        const Jet<R, ND> cover = run.coverage(i, 1);
        R g = R(0);
        bool moves = false;
        for (int a = 0; a < ND; ++a) moves = moves || cover.slope[a] != R(0);
        for (int64_t n = n0; moves && n < n1; ++n)
          g += Elements<Any>::load<R>(job.mask.data, Type(int(job.mask.type)), place_of(job, n, span) + i * column);
        for (int a = 0; a < ND; ++a) through[a][i] = cover.slope[a] == R(0) ? R(0) : g * cover.slope[a];
      }
      add_grad_grid(job, n0, chunk, span, through);
    });
  }
};

}  // namespace pystn::PYSTN_LEVEL
