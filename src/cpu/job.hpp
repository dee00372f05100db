// What a call hands to the kernels: arrays with their strides, sizes, resolved options. Plain data,
// the same for every instruction set; filled by Cython, read by the chunk bodies.
//
// Strides count elements. A stride of 0 is legal everywhere but in what is written.
#pragma once

#include <stdint.h>

namespace pystn {

constexpr int max_ndim = 3;   // spatial axes
constexpr int max_rank = 64;  // axes of a grid's shape between batch and coordinates

enum class Float : int { f32 = 0, f64 = 1 };

struct ImageArray {  // (N, C, *spatial) or (N, *spatial, C); spatial strides x first
  void* data;
  int64_t batch, channel, axis[max_ndim];
};

struct SampleArray {  // (N, C, *shape) or (N, *shape, C); strides of `shape` in its own order
  void* data;
  int64_t batch, channel, axis[max_rank];
};

struct GridArray {  // (N, *shape, ndim)
  void* data;
  int64_t batch, component, axis[max_rank];
};

// Rows of the source that a strip of the output reaches, along the slowest axis.
struct Reach {
  int64_t low, high;
};

// A call of the sampler in one of its directions. Arrays that a direction does not use are null.
struct SampleJob {
  int64_t batch;        // N, after broadcasting
  int64_t input_batch;  // 1 or N
  int64_t grid_batch;   // 1 or N
  int64_t channels;
  int ndim;
  int64_t size[max_ndim];  // pixels of the source window at hand, x first
  int64_t full[max_ndim];  // pixels of the whole source
  int64_t origin[max_ndim];
  int rank;
  int64_t shape[max_rank];

  Float image_type, grid_type;
  int mode;         // Mode
  int coordinates;  // core Coordinates
  int boundary[max_ndim];
  int subgradient;  // core Subgradient

  ImageArray input, d_input, grad_input;
  GridArray grid, d_grid, grad_grid;
  SampleArray output;  // also the cotangent grad_output, and d_output

  // How the output is cut into chunks, and grad_input into parts that one task owns. The chunks
  // follow from the shapes alone. The parts may follow the number of threads: every element has one
  // owner, who adds to it in the order of the output's pixels, however the parts are cut.
  int64_t outer, rows, columns;       // shape as outer x rows x columns
  int64_t chunk_rows, chunk_columns;  // of one chunk
  int64_t row_chunks, column_chunks;
  int64_t channel_blocks, bands;
  Reach* reach;  // of each strip of each chunk, if bands > 1
};

enum class Mode : int { nearest = 0, linear = 1 };

// vjp is both gradients in one pass; not every kernel has it.
// reach fills the table that lets vjp_input skip what is outside its band.
enum class Direction : int { forward = 0, jvp = 1, vjp_input = 2, vjp_grid = 3, vjp = 4, reach = 5 };

struct LatticeJob {  // affine_grid: theta (M, ndim, ndim + 1) -> grid (M, *size, ndim)
  int64_t count;     // matrices
  int ndim;
  int64_t size[max_ndim];  // of the output window, x first
  int64_t full[max_ndim];  // of the whole output
  int64_t origin[max_ndim];
  int align_corners;
  Float type;
  const void* theta;  // contiguous
  void* grid;         // also the cotangent
  int64_t grid_matrix, grid_axis[max_ndim], grid_component;
  double* partial;  // (M, row_chunks, ndim, ndim + 1), for the vjp
  int64_t rows;     // product of the axes but x
  int64_t chunk_rows, row_chunks;
};

using SampleChunk = void (*)(const SampleJob&, int64_t chunk);
using LatticeChunk = void (*)(const LatticeJob&, int64_t chunk);

// The chunk bodies of one instruction set.
struct Level {
  const char* name;
  SampleChunk (*sample)(Direction, const SampleJob&);  // null for a vjp that has to be done in two
  LatticeChunk (*affine_grid)(const LatticeJob&);
  LatticeChunk (*affine_grid_vjp)(const LatticeJob&);
};

// The best level that this processor runs, or the one of that name; null if it cannot run here.
const Level* best_level();
const Level* find_level(const char* name);
// Names of the levels that were built and run here, best first; ends with null.
const char* const* level_names();

}  // namespace pystn
