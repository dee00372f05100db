// The spline filter along one axis: blocks of neighbouring lines, gathered into a buffer of double,
// solved there, and written to the output. What lies next to each other in memory is read and
// written so, whichever the axis is; source and target may be one array.
#pragma once

#include "job.hpp"
#include "splines.hpp"

namespace pystn::PYSTN_LEVEL {

template <class T>
struct SplineLines {
  static constexpr int64_t segment = 16;  // pixels of a line that are copied before the next line's

  // A task owns a run of blocks, and a buffer.
  template <int half, int lanes>
  static void filter(const SplineJob& job, int64_t task) {
    const SplineFactors factors(job.order, Boundary(job.boundary), job.length, job.factors);
    double* const buffer = job.buffer + task * job.length * lanes;
    const int64_t blocks = (job.lines + lanes - 1) / lanes;
    for (int64_t block = blocks * task / job.tasks; block < blocks * (task + 1) / job.tasks; ++block) {
      const int64_t first = block * lanes;
      const int count = int(job.lines - first < lanes ? job.lines - first : lanes);
      const T* from[lanes];
      T* to[lanes];
      bool together = count == lanes;
      for (int l = 0; l < lanes; ++l) {
        locate(job, first + (l < count ? l : 0), from[l], to[l]);  // idle lanes repeat the first line
        together = together && from[l] == from[0] + l && to[l] == to[0] + l;
      }
      if (together)
        gather_together<lanes>(buffer, from[0], job.length, job.source_step);
      else
        gather<lanes>(buffer, from, job.length, job.source_step);
      factors.template solve<half, lanes>(buffer);
      if (together)
        scatter_together<lanes>(buffer, to[0], job.length, job.target_step);
      else
        scatter<lanes>(buffer, to, count, job.length, job.target_step);
    }
  }

  static void locate(const SplineJob& job, int64_t line, const T*& from, T*& to) {
    int64_t source = 0, target = 0;
    for (int a = 0; a < job.rank; ++a) {
      const int64_t i = line % job.shape[a];
      line /= job.shape[a];
      source += i * job.source_stride[a];
      target += i * job.target_stride[a];
    }
    from = static_cast<const T*>(job.source) + source;
    to = static_cast<T*>(job.target) + target;
  }

  template <int lanes>
  static void gather_together(double* __restrict buffer, const T* __restrict from, int64_t length, int64_t step) {
    for (int64_t i = 0; i < length; ++i)
      for (int l = 0; l < lanes; ++l) buffer[i * lanes + l] = double(from[i * step + l]);
  }

  template <int lanes>
  static void scatter_together(const double* __restrict buffer, T* __restrict to, int64_t length, int64_t step) {
    for (int64_t i = 0; i < length; ++i)
      for (int l = 0; l < lanes; ++l) to[i * step + l] = T(buffer[i * lanes + l]);
  }

  template <int lanes>
  static void gather(double* __restrict buffer, const T* const (&from)[lanes], int64_t length, int64_t step) {
    for (int64_t start = 0; start < length; start += segment) {
      const int64_t end = start + segment < length ? start + segment : length;
      for (int l = 0; l < lanes; ++l)
        for (int64_t i = start; i < end; ++i) buffer[i * lanes + l] = double(from[l][i * step]);
    }
  }

  template <int lanes>
  static void scatter(const double* __restrict buffer, T* const (&to)[lanes], int count, int64_t length, int64_t step) {
    for (int64_t start = 0; start < length; start += segment) {
      const int64_t end = start + segment < length ? start + segment : length;
      for (int l = 0; l < count; ++l)
        for (int64_t i = start; i < end; ++i) to[l][i * step] = T(buffer[i * lanes + l]);
    }
  }

  template <int half>
  static SplineChunk with_lanes(int lanes) {
    return lanes == 16 ? filter<half, 16> : lanes == 4 ? filter<half, 4> : filter<half, 1>;
  }

  static SplineChunk body(const SplineJob& job) {
    switch (job.order / 2) {
      case 1:
        return with_lanes<1>(job.lanes);
      case 2:
        return with_lanes<2>(job.lanes);
      default:
        return with_lanes<3>(job.lanes);
    }
  }
};

}  // namespace pystn::PYSTN_LEVEL
