// What a call hands to the kernels: arrays with their strides, sizes, resolved options. Plain data,
// the same for every instruction set; filled by Cython, read by the chunk bodies.
//
// Strides count elements. A stride of 0 is legal everywhere but in what is written.
#pragma once

#include <stdint.h>

namespace pystn {

constexpr int max_ndim = 3;   // spatial axes
constexpr int max_rank = 64;  // axes of a grid's shape between batch and coordinates

// Batches of so many images or more, of so many channels or more, are cut into images and no further, if these are of
// so many pixels or less: then a task can rearrange an image that it reads.
constexpr int64_t whole_images = 8, whole_channels = 16, whole_pixels = int64_t(1) << 16;

// Types of elements; the codes of core/elements.hpp.
enum class Element : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3, u8 = 4, i16 = 5, u16 = 6 };

struct ImageArray {  // (N, C, *spatial) or (N, *spatial, C); spatial strides x first
  void* data;
  Element type;
  int64_t batch, channel, axis[max_ndim];
};

struct SampleArray {  // (N, C, *shape) or (N, *shape, C); strides of `shape` in its own order
  void* data;
  Element type;
  int64_t batch, channel, axis[max_rank];
  int64_t component;  // of a gradient's last axis, x, y, z
};

struct GridArray {  // (N, *shape, ndim)
  void* data;
  int64_t batch, component, axis[max_rank];
};

// Coordinates that are made, not stored: a matrix applied to the lattice of the output, which is the
// last ndim axes of SampleJob.shape; the axes before them have a matrix each.
struct MatrixSource {
  int kind;                // core Source
  const double* theta;     // (matrices, rows, ndim + 1), contiguous
  const double* d_theta;   // its tangent, or null
  int64_t batch;           // matrices from one sample of the batch to the next; 0 if they share theirs
  int64_t size[max_ndim];  // of the output, x first
  const void* columns;     // target coordinates of its columns, in the arithmetic of positions; or null
  double least_denominator;
  int cull_behind;
  // Sums for the gradient to theta: (matrices, groups, rows, ndim + 1). The chunks of a matrix are
  // next to each other, and so many of them in turn add to one group.
  double* partial;
  int64_t chunks_per_matrix, chunks_per_group;
};

// Rows of the source that a strip of the output reaches, along the slowest axis.
struct Reach {
  int64_t low, high;
};

// The interpolation kernel of one axis; the fields of core's KernelChoice.
struct KernelJob {
  int mode, taps, variant;
  double parameter, support;
  const double* table;
  int64_t parameters;
};

struct FootprintArray {  // (N, *shape, ndim) scales, x first, or (N, *shape, ndim, ndim) covariances
  void* data;
  int64_t batch, row, column, axis[max_rank];
};

// Footprints in the source that kernels are stretched over, of the grid's type.
struct FootprintJob {
  int covariances;
  int64_t batch;  // 1 or N
  FootprintArray footprint, d_footprint, grad_footprint;
};

// A call of the sampler in one of its directions. Arrays that a direction does not use are null.
struct SampleJob {
  int64_t batch;         // N, after broadcasting
  int64_t input_batch;   // 1 or N
  int64_t grid_batch;    // 1 or N
  int64_t output_batch;  // 1 or N; where it is 1, the values of all N are summed
  int64_t channels;      // a complex one counts as two
  int components;        // of a channel: 2 if complex, next to each other, else 1
  int ndim;
  int64_t size[max_ndim];  // pixels of the source window at hand, x first
  int64_t full[max_ndim];  // pixels of the whole source
  int64_t origin[max_ndim];
  int rank;
  int64_t shape[max_rank];

  Element grid_type;
  int single;  // sums in float32; positions too, unless the grid is of float64
  KernelJob kernel[max_ndim];
  int coordinates;  // core Coordinates
  int boundary[max_ndim];
  int subgradient;     // core Subgradient
  int cutoff;          // core Cutoff
  const double* fill;  // per channel; null if all are 0

  ImageArray input, d_input, grad_input;
  GridArray grid, d_grid, grad_grid;
  MatrixSource source;   // in the place of these three, unless its kind is stored
  SampleArray output;    // also the cotangent grad_output, and d_output
  SampleArray values;    // what is pushed along d_grid
  SampleArray gradient;  // (N, C, *shape, ndim): grid_gradient and its cotangent
  SampleArray mask;      // coverage, also its cotangent or tangent; its channel stride means nothing

  // A projection: samples that differ in their depth alone, the slowest of the output's ndim axes, are
  // one element of `output`. With `maximum` it is the largest of them, and `chosen` (int32) says which;
  // a direction that has `chosen` without `maximum` goes through that one alone.
  int projected, maximum;
  SampleArray chosen;

  // Tangents of the options, null if they are 0; and sums for their gradients, one row of
  // `channels` and then the kernels' parameters, axis by axis, for each of `groups` of chunks.
  const double* d_fill;
  const double* d_kernel[max_ndim];
  double* partial;
  int64_t groups, partial_row;

  const FootprintJob* footprint;  // null: kernels have the width that their names say

  // How the output is cut into chunks, and grad_input into parts that one task owns. The chunks
  // follow from the shapes alone. The parts may follow the number of threads: every element has one
  // owner, who adds to it in the order of the output's pixels, however the parts are cut.
  int64_t outer, rows, columns;       // shape as outer x rows x columns
  int64_t planes;                     // of outer that one chunk walks, one after the other
  int64_t chunk_rows, chunk_columns;  // of one chunk
  int64_t stream_from;                // bytes of an output from which on it had better go past the caches
  int streams;                        // this one is as large
  int64_t row_chunks, column_chunks;
  int64_t channel_blocks, bands;
  Reach* reach;  // of each strip of each chunk, if bands > 1

  // Memory for tasks that rearrange what they read, a slot for each of those that run at a time.
  void* scratch;
  int64_t scratch_bytes;  // of a slot
  int scratch_slots;
  unsigned char* scratch_taken;  // which are in use
};

// What the bodies of chunks do. U is `input`, Z `d_input`, V a sample, V_a its slopes, V_ab its curve.
enum class Direction : int {
  forward = 0,            // output = V(U), mask
  jvp = 1,                // output = V(Z) + d_grid_a V_a(U), with d_fill and d_kernel
  vjp_input = 2,          // grad_input += output w
  vjp_grid = 3,           // grad_grid_a = output V_a(U)
  vjp = 4,                // both of these in one pass; not every kernel has it
  reach = 5,              // the table that lets vjp_input skip what is outside its band
  vjp_options = 6,        // partial sums of the gradients to fill value and kernels
  vjp2_grid = 7,          // grad_grid_a = output (V_a(Z) + d_grid_b V_ab(U))
  push = 8,               // grad_input += output w + values d_grid_a w_a + gradient_a w_a
  gradient = 9,           // gradient_a = V_a(U)
  gradient_jvp = 10,      // gradient_a = V_a(Z) + d_grid_b V_ab(U)
  gradient_vjp_grid = 11  // grad_grid_b = gradient_a V_ab(U)
};

constexpr int lattice_block = 8;  // columns that are taken together

// affine_grid: theta (M, ndim, ndim + 1) -> grid (M, *size, ndim); projective_grid: theta (M, 3, 3) -> grid (M, *size,
// 2)
struct LatticeJob {
  int64_t count;  // matrices
  int ndim;
  int64_t size[max_ndim];  // of the output window, x first
  int64_t full[max_ndim];  // of the whole output
  int64_t origin[max_ndim];
  int align_corners;
  Element type;
  const void* theta;    // contiguous
  const void* d_theta;  // of projective maps: the matrices' tangent, or the cotangent of their gradient; or null
  double least_denominator;
  int cull_behind;
  void* grid;  // also the cotangent
  int64_t grid_matrix, grid_axis[max_ndim], grid_component;
  // Normalised, in the grid's type: those of all pixels on each axis in turn, x first, and room for a block; or null.
  const void* coordinates;
  double* partial;  // (M, row_chunks) and a matrix, for the vjp
  int64_t rows;     // product of the axes but x
  int64_t chunk_rows, row_chunks;
};

// Of a function's values that a task of a linear grid has, at most: a near cache holds those of some. And of a basis
// that is in no near cache, of one matrix alone.
constexpr int64_t linear_bytes = 4096, streamed_linear_bytes = 16384, near_bytes = 1 << 20;

struct LinearJob {    // linear_grid: theta (M, rows, functions), basis (B, functions, points) -> grid (M, points, rows)
  int64_t count;      // matrices
  int64_t per_basis;  // of them, one after the other, that share a basis
  int rows;           // 1 to 4
  int64_t functions, points;
  Element type;       // all arrays but theta are contiguous
  const void* theta;  // not for the vjp
  int64_t theta_matrix, theta_row, theta_function;
  const void* basis;
  void* grid;       // also the cotangent
  double* partial;  // (M, point_chunks, functions, rows), for the vjp
  int64_t chunk_points, point_chunks, chunk_matrices;
  int streams;  // such a basis: forward
};

// Points of a map, in parts of so many, but the last.
struct PointParts {
  int64_t points, size, count;
};

struct FlowJob {        // flows of velocities that are affine in each cell: CPAB
  int64_t count;        // fields
  int ndim;             // 1 or 2
  int64_t cells[2];     // along each axis, x first
  PointParts parts;     // of the points of each field
  int64_t steps;        // in two dimensions
  Element type;         // of the grid
  const double* start;  // (points, ndim)
  // In one dimension velocities (M, cells + 1), in cells; in two a step of each triangle (M, triangles, 3, 3). Then
  // their tangent, or null.
  const double* field;
  const double* d_field;
  void* grid;  // (M, points, ndim); also the cotangent
  // (M, parts) and a field, set to 0: for the vjp, and what its derivative is added to.
  double* partial;
  double* d_partial;
};

struct PiecewiseJob {  // maps that are affine in each triangle: points are sums of weighted corners
  int64_t count;       // maps
  PointParts parts;    // of the points of each
  int64_t values;      // that they are made of
  Element type;
  // Points that follow one triangle side by side: where each run of them starts, and where the last ends; its triangle.
  int64_t runs;
  const int64_t* start;
  const int64_t* followed;
  const int64_t* corner;  // (triangles, 3): among the values
  const void* weight;     // (3, points): for the vjp in double
  const void* base;       // (points, 2): what is added, or null
  const void* value;      // (M, values, 2): not for the vjp
  void* grid;             // (M, points, 2); also the cotangent
  double* partial;        // (M, parts, values, 2), set to 0: for the vjp
};

constexpr int64_t exponentials_together = 8;  // matrices that a task has, but for the last

struct ExponentialJob {
  int64_t count, rows;
  // Of (count, rows, rows): the exponentials of generators, or their derivatives along a direction unless that is null,
  // or how these move with the generators, which move by `then`, unless that is null.
  const double* generator;
  const double* along;
  const double* then;
  double* matrix;
};

using SampleChunk = void (*)(const SampleJob&, int64_t chunk);
using LatticeChunk = void (*)(const LatticeJob&, int64_t chunk);
using LinearTask = void (*)(const LinearJob&, int64_t task);
using FlowTask = void (*)(const FlowJob&, int64_t task, void* scratch);
using PiecewiseTask = void (*)(const PiecewiseJob&, int64_t task);
using ExponentialTask = void (*)(const ExponentialJob&, int64_t task, void* scratch);

struct SplineJob {  // spline_filter along one axis
  Element type;
  int order;       // 2 to 7
  int boundary;    // core Boundary
  int transposed;  // for the vjp
  int64_t length;  // of the axis
  const void* source;
  void* target;  // may be the source
  int64_t source_step, target_step;
  // The lines: the other axes, the one of the least stride in the target first.
  int rank;
  int64_t shape[max_ndim + 2], source_stride[max_ndim + 2], target_stride[max_ndim + 2];
  int64_t lines;
  int lanes;  // lines that are solved together: 16, 4 or 1
  int64_t tasks;
  double* factors;
  double* buffer;  // (tasks, length, lanes)
};
using SplineChunk = void (*)(const SplineJob&, int64_t task);

// Numbers of a type of 8 or 16 bits and the same in float32, in one order: which of the two is made.
struct ConversionJob {
  Element type;
  int widens;
  void* small;
  void* wide;
};

// The chunk bodies of one instruction set.
struct Level {
  const char* name;
  SampleChunk (*sample)(Direction, const SampleJob&);  // null for a vjp that has to be done in two
  void (*target_columns)(const SampleJob&, void* to);  // source.columns
  int64_t (*scratch)(Direction, const SampleJob&);     // bytes of scratch memory that a task wants
  bool (*walks_rows)(const SampleJob&);                // whether reading is faster if rows are not merged into one
  bool (*looks_up)(Direction, const SampleJob&);       // whether types are looked up for every element
  void (*lattice_coordinates)(const LatticeJob&, void* to);  // coordinates
  LatticeChunk (*affine_grid)(const LatticeJob&);
  LatticeChunk (*affine_grid_vjp)(const LatticeJob&);
  LatticeChunk (*projective_grid)(const LatticeJob&);
  LatticeChunk (*projective_grid_vjp)(const LatticeJob&);
  LinearTask (*linear_grid)(const LinearJob&);
  LinearTask (*linear_grid_vjp)(const LinearJob&);
  FlowTask (*flow)(const FlowJob&);
  FlowTask (*flow_vjp)(const FlowJob&);
  int64_t (*flow_scratch)(const FlowJob&);  // bytes of scratch memory that a task of flow_vjp wants
  PiecewiseTask (*piecewise)(const PiecewiseJob&);
  PiecewiseTask (*piecewise_vjp)(const PiecewiseJob&);
  ExponentialTask (*exponential)(const ExponentialJob&);
  int64_t (*exponential_scratch)(const ExponentialJob&);  // bytes of scratch memory that a task wants
  int64_t (*spline_factors)(const SplineJob&);            // fills job.factors unless it is null; how many there are
  SplineChunk (*spline_filter)(const SplineJob&);
  void (*convert)(const ConversionJob&, int64_t first, int64_t last);
};

// Bytes of an output from which on it had better go past this processor's caches: fewer may still be there for
// whoever reads them next, and need not be read to be overwritten.
int64_t bytes_worth_streaming();

// The best level that this processor runs, or the one of that name; null if it cannot run here.
const Level* best_level();
const Level* find_level(const char* name);
// Names of the levels that were built and run here, best first; ends with null.
const char* const* level_names();

}  // namespace pystn
