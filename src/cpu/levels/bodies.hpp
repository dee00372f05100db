// The chunk bodies of one instruction set: which there are, and what they share to choose among theirs. Each of the
// files named here is compiled once per level.
#pragma once

#include <type_traits>

#include "interpolation.hpp"
#include "job.hpp"

namespace pystn::PYSTN_LEVEL {

// The body for a job, or null if this file has none. `transposed_bytes` are of scratch memory, what a task wants.
SampleChunk footprint_body(Direction direction, const SampleJob& job);  // footprints.cpp: stretched kernels
SampleChunk body_of_tiles(Direction direction, const SampleJob& job);   // tiles.cpp: float32 planes
SampleChunk body_of_planes(Direction direction, const SampleJob& job);  // planes.cpp: few channels, of one or two taps
SampleChunk body_of_pixels(const SampleJob& job);                       // pixels.cpp: few channels, small types, copies
SampleChunk transposed_body(Direction direction, const SampleJob& job);  // transposed.cpp: many channels, rearranged
int64_t transposed_bytes(Direction direction, const SampleJob& job);
SampleChunk body_of_channels(Direction direction, const SampleJob& job);  // channels.cpp: channels last
SampleChunk body_of_blocks(Direction direction, const SampleJob& job);    // blocks.cpp: planes
SampleChunk general_body(Direction direction, const SampleJob& job);      // sampling.cpp: anything
SampleChunk mask_body(Direction direction, const SampleJob& job);         // sampling.cpp: what is the mask's alone

// Whether all arrays with channels that a job has are of one type.
inline bool all_are(Element type, const SampleJob& job) {
  const ImageArray* const images[] = {&job.input, &job.d_input, &job.grad_input};
  for (const ImageArray* image : images)
    if (image->data && image->type != type) return false;
  const SampleArray* const samples[] = {&job.output, &job.values, &job.gradient};
  for (const SampleArray* array : samples)
    if (array->data && array->type != type) return false;
  return true;
}

// Whether they are of the arithmetic's.
inline bool is_uniform(const SampleJob& job) { return all_are(job.single ? Element::f32 : Element::f64, job); }

// Calls body(constant) with the number of spatial axes.
template <class Body>
inline auto with_ndim(const SampleJob& job, Body&& body) {
  switch (job.ndim) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    default:
      return body(std::integral_constant<int, 3>());
  }
}

// Values, and their gradients one by one.
template <class S>
SampleChunk first_order(Direction direction) {
  switch (direction) {
    case Direction::forward:
      return S::forward;
    case Direction::vjp_input:
      return S::vjp_input;
    case Direction::vjp_grid:
      return S::vjp_grid;
    default:
      return nullptr;
  }
}

// Those, and tangents.
template <class S>
SampleChunk frequent(Direction direction) {
  return direction == Direction::jvp ? S::jvp : first_order<S>(direction);
}

// All directions.
template <class S>
SampleChunk any(Direction direction) {
  switch (direction) {
    case Direction::vjp_options:
      return S::vjp_options;
    case Direction::vjp2_grid:
      return S::vjp2_grid;
    case Direction::push:
      return S::push;
    case Direction::gradient:
      return S::gradient;
    case Direction::gradient_jvp:
      return S::gradient_jvp;
    case Direction::gradient_vjp_grid:
      return S::gradient_vjp_grid;
    default:
      return frequent<S>(direction);
  }
}

// The number of taps on every axis, or 0 if they differ. Linear has three where its slopes look to the left too; not so
// where these are one of two gradients, of which the other has two.
inline int taps_of(Direction direction, const SampleJob& job) {
  const bool slopes = direction == Direction::jvp || direction == Direction::vjp_grid || direction == Direction::vjp ||
                      direction == Direction::vjp2_grid || direction == Direction::push;
  const bool looks_left = slopes && Subgradient(job.subgradient) != Subgradient::right;
  int taps = 0;
  for (int a = 0; a < job.ndim; ++a) {
    const bool has_three = looks_left && Mode(job.kernel[a].mode) == Mode::linear;
    const int own = has_three ? 3 : job.kernel[a].taps;
    if ((a > 0 && own != taps) || (has_three && direction == Direction::vjp)) return 0;
    taps = own;
  }
  return taps;
}

// Directions of blocks and of channels in lanes.
template <class S>
SampleChunk vectorized(Direction direction) {
  switch (direction) {
    case Direction::vjp2_grid:
      return S::vjp2_grid;
    case Direction::push:
      return S::push;
    case Direction::vjp:
      return S::vjp;
    default:
      return frequent<S>(direction);
  }
}

// What is worth a body of its own of three, six and eight taps: frequent directions of images, else values.
template <class S, int ND>
SampleChunk of_many_taps(Direction direction, const SampleJob& job) {
  if constexpr (ND == 2) return direction == Direction::vjp ? S::vjp : frequent<S>(direction);
  return direction == Direction::forward && !job.projected ? S::forward : nullptr;
}

// Of the nearest pixel nothing is left to do but to add to images: its values are copies, and its slopes none.
inline bool all_are_nearest(const SampleJob& job) {
  for (int a = 0; a < job.ndim; ++a)
    if (Mode(job.kernel[a].mode) != Mode::nearest) return false;
  return true;
}

}  // namespace pystn::PYSTN_LEVEL
