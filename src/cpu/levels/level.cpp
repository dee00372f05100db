// The chunk bodies of one instruction set. Compiled once per level with PYSTN_LEVEL naming it; the
// only symbol that leaves is the level's table.
#include <type_traits>

#include "blocks.hpp"
#include "channels.hpp"
#include "grids.hpp"
#include "job.hpp"
#include "linear_grids.hpp"
#include "pixels.hpp"
#include "sampling.hpp"
#include "spline_lines.hpp"
#include "tiles.hpp"
#include "transposed.hpp"

namespace pystn::PYSTN_LEVEL {

SampleChunk footprint_body(Direction direction, const SampleJob& job);  // footprints.cpp

namespace {

// Directions that every network runs in every step.
template <class S>
SampleChunk frequent(Direction direction) {
  switch (direction) {
    case Direction::forward:
      return S::forward;
    case Direction::jvp:
      return S::jvp;
    case Direction::vjp_input:
      return S::vjp_input;
    case Direction::vjp_grid:
      return S::vjp_grid;
    default:
      return nullptr;
  }
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

// The number of taps on every axis, or 0 if they differ.
int taps_of(Direction direction, const SampleJob& job) {
  const bool slopes = direction == Direction::jvp || direction == Direction::vjp_grid || direction == Direction::vjp ||
                      direction == Direction::vjp2_grid || direction == Direction::push;
  int taps = job.kernel[0].taps;
  for (int a = 0; a < job.ndim; ++a) {
    if (job.kernel[a].taps != taps) return 0;
    if (slopes && Mode(job.kernel[a].mode) == Mode::linear && Subgradient(job.subgradient) != Subgradient::right)
      return 0;
  }
  return taps;
}

#if defined(PYSTN_BLOCKS) || defined(PYSTN_CHANNELS)
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
#endif

#if defined(PYSTN_BLOCKS) || defined(PYSTN_CHANNELS)
// What is worth a body of its own of three, six and eight taps: frequent directions of images, else values.
template <class S, int ND>
SampleChunk of_many_taps(Direction direction, const SampleJob& job) {
  if constexpr (ND == 2) return direction == Direction::vjp ? S::vjp : frequent<S>(direction);
  return direction == Direction::forward && !job.projected ? S::forward : nullptr;
}
#endif

#if defined(PYSTN_BLOCKS)
// Whether an offset into the input is one into its gradient too.
bool strides_agree(const SampleJob& job) {
  for (int a = 0; a < job.ndim; ++a)
    if (job.input.axis[a] != job.grad_input.axis[a]) return false;
  return true;
}

template <class R, int ND>
SampleChunk with_blocks(Direction direction, const SampleJob& job) {
  if (!fits_blocks(job) || (direction == Direction::forward && job.output_batch != job.batch)) return nullptr;
  if (direction == Direction::vjp && !strides_agree(job)) return nullptr;
  const int taps = taps_of(direction, job);
  // The few samples that a projection chose are added faster one by one, if each has many taps.
  if (taps > 2 && job.chosen.data && (direction == Direction::vjp_input || direction == Direction::vjp)) return nullptr;
  switch (taps) {
    case 1:
      return direction == Direction::vjp ? nullptr : vectorized<BlockSampler<R, 1, ND>>(direction);
    case 2:
      return vectorized<BlockSampler<R, 2, ND>>(direction);
    case 4:
      return vectorized<BlockSampler<R, 4, ND>>(direction);
    case 3:
      return of_many_taps<BlockSampler<R, 3, ND>, ND>(direction, job);
    case 6:
      return of_many_taps<BlockSampler<R, 6, ND>, ND>(direction, job);
    case 8:
      return of_many_taps<BlockSampler<R, 8, ND>, ND>(direction, job);
    default:
      return nullptr;
  }
}
#endif

#if defined(PYSTN_CHANNELS)
#if defined(PYSTN_PIXELS)
// Small pixels of so many taps, where four would have the body of pixels.hpp.
template <int S>
SampleChunk small_pixels(const SampleJob& job) {
  SampleJob of_four = job;
  for (int a = 0; a < job.ndim; ++a) of_four.kernel[a].taps = 4;
  if (job.input.type != Element::f32 || !pixels(of_four)) return nullptr;
  return job.channels == 2   ? PixelSampler<float, S, 2>::forward
         : job.channels == 3 ? PixelSampler<float, S, 3>::forward
                             : PixelSampler<float, S, 4>::forward;
}
#endif

template <class R, int S>
SampleChunk with_channels_of_many_taps(Direction direction, const SampleJob& job) {
#if defined(PYSTN_PIXELS)
  if constexpr (sizeof(R) == sizeof(float))
    if (direction == Direction::forward)
      if (const SampleChunk body = small_pixels<S>(job)) return body;
#endif
  return of_many_taps<ChannelSampler<R, S, 2>, 2>(direction, job);
}

template <class R, int ND>
SampleChunk with_channels(Direction direction, const SampleJob& job) {
  if (!fits_channels(direction, job)) return nullptr;
  switch (taps_of(direction, job)) {
    case 1:
      return frequent<ChannelSampler<R, 1, ND>>(direction);
    case 2:
      return vectorized<ChannelSampler<R, 2, ND>>(direction);
    case 4:
      return vectorized<ChannelSampler<R, 4, ND>>(direction);
    default:
      break;
  }
  if constexpr (ND == 2) {
    switch (taps_of(direction, job)) {
      case 3:
        return with_channels_of_many_taps<R, 3>(direction, job);
      case 6:
        return with_channels_of_many_taps<R, 6>(direction, job);
      case 8:
        return with_channels_of_many_taps<R, 8>(direction, job);
      default:
        break;
    }
  }
  return nullptr;
}
#endif

template <class T, class R, int ND>
SampleChunk with_taps(Direction direction, const SampleJob& job) {
#if defined(PYSTN_CHANNELS)
  if constexpr (std::is_same<T, R>::value)
    if (const SampleChunk body = with_channels<R, ND>(direction, job)) return body;
#endif
#if defined(PYSTN_BLOCKS)
  if constexpr (std::is_same<T, R>::value)
    if (const SampleChunk body = with_blocks<R, ND>(direction, job)) return body;
#endif
  // Of what is left, fill values and masks say, linear is common enough for loops of its own, and so are
  // frequent directions of one type; the others look their types up, to the same bits.
  if constexpr (Elements<T>::typed)
    if (taps_of(direction, job) == 2)
      if (const SampleChunk body = frequent<Sampler<T, R, 2, ND>>(direction)) return body;
  if constexpr (std::is_same<T, R>::value)
    if (const SampleChunk body = frequent<Sampler<T, R, 0, ND>>(direction)) return body;
  return any<Sampler<Any, R, 0, ND>>(direction);
}

template <class T, class R>
SampleChunk with_dimensions(Direction direction, const SampleJob& job) {
  switch (job.ndim) {
    case 1:
      return with_taps<T, R, 1>(direction, job);
    case 2:
      return with_taps<T, R, 2>(direction, job);
    default:
      return with_taps<T, R, 3>(direction, job);
  }
}

// Whether all arrays with channels that a job has are of one type.
bool all_are(Element type, const SampleJob& job) {
  const ImageArray* const images[] = {&job.input, &job.d_input, &job.grad_input};
  for (const ImageArray* image : images)
    if (image->data && image->type != type) return false;
  const SampleArray* const samples[] = {&job.output, &job.values, &job.gradient};
  for (const SampleArray* array : samples)
    if (array->data && array->type != type) return false;
  return true;
}

#if defined(PYSTN_TRANSPOSED)
template <class R, int ND>
SampleChunk transposed_by_taps(Direction direction, int taps) {
  switch (taps) {
    case 1:
      return frequent<TransposedSampler<R, 1, ND>>(direction);
    case 2:
      return vectorized<TransposedSampler<R, 2, ND>>(direction);
    case 4:
      return vectorized<TransposedSampler<R, 4, ND>>(direction);
    default:
      return nullptr;
  }
}

template <class R>
SampleChunk transposed(Direction direction, const SampleJob& job) {
  const int taps = taps_of(direction, job);
  switch (job.ndim) {
    case 1:
      return transposed_by_taps<R, 1>(direction, taps);
    case 2:
      return transposed_by_taps<R, 2>(direction, taps);
    default:
      return transposed_by_taps<R, 3>(direction, taps);
  }
}
#endif

// Bytes of scratch memory that a task makes use of; those of `job` are not looked at.
int64_t scratch([[maybe_unused]] Direction direction, [[maybe_unused]] const SampleJob& job) {
#if defined(PYSTN_TRANSPOSED)
  if (job.footprint) return 0;
  const int taps = taps_of(direction, job);
  if ((taps != 1 && taps != 2 && taps != 4) || !fits_transposed(direction, job)) return 0;
  if (all_are(Element::f64, job)) return bytes_transposed<double>(direction, job);
  if (all_are(Element::f32, job) && job.single) return bytes_transposed<float>(direction, job);
#endif
  return 0;
}

SampleChunk sample(Direction direction, const SampleJob& job) {
  if (job.footprint) return footprint_body(direction, job);
#if defined(PYSTN_TRANSPOSED)
  if (job.scratch) return job.single ? transposed<float>(direction, job) : transposed<double>(direction, job);
#endif
  if (direction == Direction::reach) return job.single ? find_reach<float> : find_reach<double>;
#if defined(PYSTN_TILES)
  if (const SampleChunk special = tiled(direction, job)) return special;
#endif
#if defined(PYSTN_PIXELS)
  if (direction == Direction::forward)
    if (const SampleChunk special = pixels(job)) return special;
#endif
  if (all_are(Element::f64, job)) return with_dimensions<double, double>(direction, job);
  if (all_are(Element::f32, job))
    return job.single ? with_dimensions<float, float>(direction, job) : with_dimensions<float, double>(direction, job);
  return job.single ? with_dimensions<Any, float>(direction, job) : with_dimensions<Any, double>(direction, job);
}

bool walks_rows(const SampleJob& job) {
  if (job.columns < 16) return false;  // of vectors that rows fill little of
  if (job.channels > 1) return true;
#if defined(PYSTN_TILES)
  return job.columns >= strip_columns && tiled(Direction::forward, job) != nullptr;
#else
  return false;
#endif
}

template <class R>
LatticeChunk affine_lattice(const LatticeJob& job, bool forward) {
  switch (job.ndim) {
    case 1:
      return forward ? AffineLattice<R, 1>::forward : AffineLattice<R, 1>::vjp;
    case 2:
      return forward ? AffineLattice<R, 2>::forward : AffineLattice<R, 2>::vjp;
    default:
      return forward ? AffineLattice<R, 3>::forward : AffineLattice<R, 3>::vjp;
  }
}
LatticeChunk affine_grid(const LatticeJob& job) {
  return job.type == Element::f32 ? affine_lattice<float>(job, true) : affine_lattice<double>(job, true);
}
LatticeChunk affine_grid_vjp(const LatticeJob& job) {
  return job.type == Element::f32 ? affine_lattice<float>(job, false) : affine_lattice<double>(job, false);
}

template <class R>
LatticeChunk projective_lattice(const LatticeJob& job, bool forward) {
  using Lattice = ProjectiveLattice<R>;
  if (forward) return job.d_theta ? Lattice::template forward<true> : Lattice::template forward<false>;
  return job.d_theta ? Lattice::template vjp<true> : Lattice::template vjp<false>;
}
LatticeChunk projective_grid(const LatticeJob& job) {
  return job.type == Element::f32 ? projective_lattice<float>(job, true) : projective_lattice<double>(job, true);
}
LatticeChunk projective_grid_vjp(const LatticeJob& job) {
  return job.type == Element::f32 ? projective_lattice<float>(job, false) : projective_lattice<double>(job, false);
}

template <class R>
LinearTask linear_lattice(const LinearJob& job, bool forward) {
  switch (job.rows) {
    case 1:
      return forward ? LinearLattice<R, 1>::forward : LinearLattice<R, 1>::vjp;
    case 2:
      return forward ? LinearLattice<R, 2>::forward : LinearLattice<R, 2>::vjp;
    case 3:
      return forward ? LinearLattice<R, 3>::forward : LinearLattice<R, 3>::vjp;
    default:
      return forward ? LinearLattice<R, 4>::forward : LinearLattice<R, 4>::vjp;
  }
}
LinearTask linear_grid(const LinearJob& job) {
  return job.type == Element::f32 ? linear_lattice<float>(job, true) : linear_lattice<double>(job, true);
}
LinearTask linear_grid_vjp(const LinearJob& job) {
  return job.type == Element::f32 ? linear_lattice<float>(job, false) : linear_lattice<double>(job, false);
}

int64_t spline_factors(const SplineJob& job) {
  const SplineFactors factors(job.order, Boundary(job.boundary), job.length, job.factors);
  if (job.factors) factors.factor(job.order, Boundary(job.boundary), job.transposed);
  return factors.size();
}

SplineChunk spline_filter(const SplineJob& job) {
  return job.type == Element::f32 ? SplineLines<float>::body(job) : SplineLines<double>::body(job);
}

}  // namespace

#define PYSTN_STRING(name) #name
#define PYSTN_NAME(name) PYSTN_STRING(name)
extern const Level level;
const Level level = {PYSTN_NAME(PYSTN_LEVEL),
                     sample,
                     scratch,
                     walks_rows,
                     affine_grid,
                     affine_grid_vjp,
                     projective_grid,
                     projective_grid_vjp,
                     linear_grid,
                     linear_grid_vjp,
                     spline_factors,
                     spline_filter};

}  // namespace pystn::PYSTN_LEVEL
