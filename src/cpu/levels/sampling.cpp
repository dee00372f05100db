#include "sampling.hpp"

#include "bodies.hpp"
#include "masks.hpp"

namespace pystn::PYSTN_LEVEL {

namespace {

// Linear is common enough for loops of its own, and so are frequent directions of one type; the others look their
// types up, to the same bits.
template <class T, class R, int ND>
SampleChunk with_taps(Direction direction, const SampleJob& job) {
  if (taps_of(direction, job) == 2)
    if (const SampleChunk body = frequent<Sampler<T, R, 2, ND>>(direction)) return body;
  if constexpr (std::is_same<T, R>::value)
    if (const SampleChunk body = frequent<Sampler<T, R, 0, ND>>(direction)) return body;
  return any<Sampler<Any, R, 0, ND>>(direction);
}

template <class R>
SampleChunk in_arithmetic(Direction direction, const SampleJob& job) {
  return with_ndim(job, [&](auto ndim) {
    return is_uniform(job) ? with_taps<R, R, ndim.value>(direction, job)
                           : with_taps<Any, R, ndim.value>(direction, job);
  });
}

template <class R>
SampleChunk mask_in_arithmetic(Direction direction, const SampleJob& job) {
  return with_ndim(job, [&](auto ndim) {
    using Mask = MaskSampler<R, ndim.value>;
    return direction == Direction::forward ? Mask::forward : Mask::vjp_grid;
  });
}

}  // namespace

SampleChunk general_body(Direction direction, const SampleJob& job) {
  if (direction == Direction::reach) return has_wide_positions(job) ? find_reach<double> : find_reach<float>;
  return job.single ? in_arithmetic<float>(direction, job) : in_arithmetic<double>(direction, job);
}

SampleChunk mask_body(Direction direction, const SampleJob& job) {
  return has_wide_positions(job) ? mask_in_arithmetic<double>(direction, job)
                                 : mask_in_arithmetic<float>(direction, job);
}

}  // namespace pystn::PYSTN_LEVEL
