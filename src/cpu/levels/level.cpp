// The chunk bodies of one instruction set. Compiled once per level with PYSTN_LEVEL naming it; the
// only symbol that leaves is the level's table.
#include "grids.hpp"
#include "job.hpp"
#include "sampling.hpp"
#include "tiles.hpp"

namespace pystn::PYSTN_LEVEL {
namespace {

template <class S>
SampleChunk body(Direction direction) {
  switch (direction) {
    case Direction::forward:
      return S::forward;
    case Direction::jvp:
      return S::jvp;
    case Direction::vjp_input:
      return S::vjp_input;
    case Direction::vjp_grid:
      return S::vjp_grid;
    case Direction::vjp:
    case Direction::reach:
      break;
  }
  return nullptr;
}

template <class T, class R>
SampleChunk with_kernel(Direction direction, const SampleJob& job) {
  const bool slopes = direction == Direction::jvp || direction == Direction::vjp_grid;
  if (Mode(job.mode) == Mode::nearest) return body<Sampler<T, R, Nearest, 2>>(direction);
  if (slopes) switch (Subgradient(job.subgradient)) {
      case Subgradient::right:
        break;
      case Subgradient::left:
        return body<Sampler<T, R, LinearWithSlope<Subgradient::left>, 2>>(direction);
      case Subgradient::central:
        return body<Sampler<T, R, LinearWithSlope<Subgradient::central>, 2>>(direction);
      case Subgradient::zero:
        return body<Sampler<T, R, LinearWithSlope<Subgradient::zero>, 2>>(direction);
    }
  return body<Sampler<T, R, Linear, 2>>(direction);
}

// Arithmetic is single only where image and coordinates are.
SampleChunk sample(Direction direction, const SampleJob& job) {
  const bool single = job.image_type == Float::f32 && job.grid_type == Float::f32;
  if (direction == Direction::reach) return single ? find_reach<float> : find_reach<double>;
#if defined(PYSTN_TILES)
  if (const SampleChunk special = tiled(direction, job)) return special;
#endif
  if (job.image_type == Float::f64) return with_kernel<double, double>(direction, job);
  if (job.grid_type == Float::f64) return with_kernel<float, double>(direction, job);
  return with_kernel<float, float>(direction, job);
}

LatticeChunk affine_grid(const LatticeJob& job) {
  if (job.type == Float::f32)
    return job.ndim == 2 ? AffineLattice<float, 2>::forward : AffineLattice<float, 3>::forward;
  return job.ndim == 2 ? AffineLattice<double, 2>::forward : AffineLattice<double, 3>::forward;
}

LatticeChunk affine_grid_vjp(const LatticeJob& job) {
  if (job.type == Float::f32) return job.ndim == 2 ? AffineLattice<float, 2>::vjp : AffineLattice<float, 3>::vjp;
  return job.ndim == 2 ? AffineLattice<double, 2>::vjp : AffineLattice<double, 3>::vjp;
}

}  // namespace

#define PYSTN_STRING(name) #name
#define PYSTN_NAME(name) PYSTN_STRING(name)
extern const Level level;
const Level level = {PYSTN_NAME(PYSTN_LEVEL), sample, affine_grid, affine_grid_vjp};

}  // namespace pystn::PYSTN_LEVEL
