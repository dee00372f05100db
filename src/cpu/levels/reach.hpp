// The rows of the image that each strip of the output reaches: a task that owns a band of rows passes other strips by.
#pragma once

#include "strip.hpp"

namespace pystn::PYSTN_LEVEL {

// Strips of a chunk, at most; the size of its part of the table of reaches.
inline int64_t strips_per_chunk(const SampleJob& job) {
  return job.planes * ((job.chunk_rows + strip_rows - 1) / strip_rows) *
         ((job.chunk_columns + strip_columns - 1) / strip_columns);
}

inline Reach* reaches_of(const SampleJob& job, int64_t n, int64_t chunk) {
  const int64_t image = job.grid_batch == 1 ? 0 : n;
  return job.reach + (image * chunks_per_image(job) + chunk) * strips_per_chunk(job);
}

// Fills a chunk's part of the table of reaches. Where the coordinate is folded the positions tell;
// else the taps do.
template <class R>
inline void find_reach(const SampleJob& job, int64_t chunk) {
  const int64_t n = chunk / chunks_per_image(job), of_image = chunk % chunks_per_image(job);
  const int slowest = job.ndim - 1;
  const Boundary boundary = Boundary(job.boundary[slowest]);
  const bool from_positions = folds(Mode(job.kernel[slowest].mode)) && boundary != Boundary::wrap;
  Reach* reach = reaches_of(job, n, of_image);
  AxisTable<R> table;
  alignas(64) R x[strip_columns];
  for_each_strip(job, of_image, [&](const Span& strip) {
    Reach reached{job.size[slowest], 0};
    for_each_run(job, strip, [&](const Span& span) {
      load_coordinates(job, n, span, slowest, x);
      table.set_positions(job, slowest, boundary, span.count, x);
      int64_t low = job.size[slowest], high = 0;
      if (from_positions) {
        R least = table.position[0], most = table.position[0];
        for (int i = 0; i < span.count; ++i) {
          least = table.position[i] < least ? table.position[i] : least;
          most = table.position[i] > most ? table.position[i] : most;
        }
        low = int64_t(floor_of(least)) - job.origin[slowest];
        high = int64_t(floor_of(most)) - job.origin[slowest] + 2;
      } else {
        table.template set_taps<0>(job, slowest, boundary, span.count);
        for (int k = 0; k < table.taps; ++k)
          for (int i = 0; i < span.count; ++i) {
            const Index at = table.index_of(i, k);
            if (at < 0) continue;
            low = at < low ? at : low;
            high = at >= high ? at + 1 : high;
          }
      }
      reached.low = low < reached.low ? low : reached.low;
      reached.high = high > reached.high ? high : reached.high;
    });
    *reach++ = reached;
  });
}

}  // namespace pystn::PYSTN_LEVEL
