// What a launch hands to the kernels of the sampler, by value: arrays with their strides, sizes, resolved options.
// Its fields are those of the structures in pystn/backends/cuda/jobs.py, in the same order.
//
// Strides count elements, parts of complex ones; a stride of 0 is legal everywhere but in what is written.
#pragma once

#include "boundaries.hpp"
#include "coordinates.hpp"
#include "elements.hpp"

namespace pystn::PYSTN_LEVEL {

constexpr int max_ndim = 3;  // spatial axes
constexpr int max_rank = 8;  // axes of the samples' shape, the fastest first, merged where the strides allow it

struct ImageArray {  // (N, C, *spatial) or (N, *spatial, C); spatial strides x first
  void* data;
  Index batch, channel, axis[max_ndim];
  int type;  // a Type
  int walk;  // of an image of cells, a Walk
};

struct SampleArray {  // (N, C, *shape) or (N, *shape, C)
  void* data;
  Index batch, channel, component, axis[max_rank];
  int type, unused;
};

struct GridArray {  // (N, *shape, ndim)
  void* data;
  Index batch, component, axis[max_rank];
};

// A matrix applied to the lattice of the output, the last ndim axes of the shape, in the place of a grid. The axes
// before them, and the batch, have a matrix each: (rows, ndim + 1), contiguous, of the arithmetic's type.
struct MatrixArray {
  const void *theta, *d_theta;
  double* partial;  // (matrices, chunks, rows, ndim + 1): sums for the gradient, of a block each
  Index batch;      // matrices from one sample of the batch to the next
  Index count;      // of a sample
  Index chunks;     // blocks that share a matrix
  Index size[max_ndim];
  double least_denominator;
  int kind, cull_behind;  // a Source
};

struct KernelJob {  // the fields of KernelChoice
  const double* table;
  Index parameters;
  double parameter, support;
  int mode, taps, variant, boundary;
};

struct SampleJob {
  ImageArray input, d_input, grad_input;
  SampleArray output, values, gradient, mask, chosen;
  GridArray grid, d_grid, grad_grid;
  MatrixArray source;
  KernelJob kernel[max_ndim];
  const double *fill, *d_fill, *d_kernel[max_ndim];
  double* partial;  // (groups, partial_row): sums for the gradients to fill value and kernels
  Index groups, partial_row;
  Index batch, grid_batch, output_batch, channels;
  Index layers;  // threads that share the channels of a sample, each taking every so many
  Index pixels, shape[max_rank];
  Index depth;  // samples along the projected axis, of which the shape has one; else 1
  Index size[max_ndim];
  int rank, components, grid_type, coordinates, subgradient, cutoff, projected, maximum;
  int adjacent_layers;  // whether these are next to each other, as channels are in memory
  int row;              // samples along the last axis, where warps are tiles
};

// What functions of a job ask for.
PYSTN_HD Source source_of(const SampleJob& job) { return Source(job.source.kind); }
PYSTN_HD Boundary boundary_of(const SampleJob& job, int a) { return Boundary(job.kernel[a].boundary); }
template <class R>
PYSTN_HD Type grid_type_of(const SampleJob& job) {
  return Type(job.grid_type);
}
PYSTN_HD bool has_mask(const SampleJob& job) { return job.mask.data != nullptr; }
PYSTN_HD bool has_chosen(const SampleJob& job) { return job.chosen.data != nullptr; }
PYSTN_HD bool sums_batch(const SampleJob& job) { return job.output_batch == 1; }

// The job of a frequent call, of which more is known when it is compiled: real numbers, coordinates of the arithmetic's
// type, one boundary on all axes, which is not constant, no mask, no fill value, nothing projected and no sum over the
// batch. Functions of a job find what is known in the place of what is stored; all else is the same.
template <int axes, int source, int boundary>
struct PlainJob : SampleJob {
  static constexpr int rank = axes, components = 1, cutoff = 0, projected = 0, maximum = 0;
  static constexpr Index depth = 1;
  static constexpr const double* fill = nullptr;
  static constexpr const double* d_fill = nullptr;
};

template <int axes, int source, int boundary>
PYSTN_HD Source source_of(const PlainJob<axes, source, boundary>&) {
  return Source(source);
}
template <int axes, int source, int boundary>
PYSTN_HD Boundary boundary_of(const PlainJob<axes, source, boundary>&, int) {
  return Boundary(boundary);
}
template <class R, int axes, int source, int boundary>
PYSTN_HD Type grid_type_of(const PlainJob<axes, source, boundary>&) {
  return sizeof(R) == 4 ? Type::f32 : Type::f64;
}
template <int axes, int source, int boundary>
PYSTN_HD bool has_mask(const PlainJob<axes, source, boundary>&) {
  return false;
}
template <int axes, int source, int boundary>
PYSTN_HD bool has_chosen(const PlainJob<axes, source, boundary>&) {
  return false;
}
template <int axes, int source, int boundary>
PYSTN_HD bool sums_batch(const PlainJob<axes, source, boundary>&) {
  return false;
}

}  // namespace pystn::PYSTN_LEVEL
