#include "blocks.hpp"

#include "bodies.hpp"

namespace pystn::PYSTN_LEVEL {

#if defined(PYSTN_BLOCKS)
namespace {

// Whether an offset into the input is one into its gradient too.
bool strides_agree(const SampleJob& job) {
  for (int a = 0; a < job.ndim; ++a)
    if (job.input.axis[a] != job.grad_input.axis[a]) return false;
  return true;
}

// What copies do not do.
template <class S, int ND>
SampleChunk of_one_tap(Direction direction, const SampleJob& job) {
  if constexpr (ND == 3)
    if (direction == Direction::forward && job.projected) return S::project;
  return direction == Direction::vjp_input ? S::vjp_input : nullptr;
}

template <class R, int ND>
SampleChunk with_blocks(Direction direction, const SampleJob& job) {
  if (!fits_blocks(direction, job) || (direction == Direction::forward && job.output_batch != job.batch))
    return nullptr;
  if (direction == Direction::vjp && !strides_agree(job)) return nullptr;
  const int taps = taps_of(direction, job);
  // The few samples that a projection chose are added faster one by one, if each has many taps.
  if (taps > 2 && job.chosen.data && (direction == Direction::vjp_input || direction == Direction::vjp)) return nullptr;
  switch (taps) {
    case 1:
      return of_one_tap<BlockSampler<R, 1, ND>, ND>(direction, job);
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

}  // namespace

SampleChunk body_of_blocks(Direction direction, const SampleJob& job) {
  return with_ndim(job, [&](auto ndim) {
    return job.single ? with_blocks<float, ndim.value>(direction, job)
                      : with_blocks<double, ndim.value>(direction, job);
  });
}
#else
SampleChunk body_of_blocks(Direction, const SampleJob&) { return nullptr; }
#endif

}  // namespace pystn::PYSTN_LEVEL
