#include "transposed.hpp"

#include "bodies.hpp"

namespace pystn::PYSTN_LEVEL {

#if defined(PYSTN_TRANSPOSED)
namespace {

template <class S>
SampleChunk of_nearest(Direction direction) {
  return direction == Direction::forward     ? S::forward
         : direction == Direction::vjp_input ? S::vjp_input
                                             : SampleChunk(nullptr);
}

template <class S>
SampleChunk of_training(Direction direction) {
  return direction == Direction::vjp ? S::vjp : first_order<S>(direction);
}

template <class R, int ND>
SampleChunk transposed_by_taps(Direction direction, int taps) {
  switch (taps) {
    case 1:
      return of_nearest<TransposedSampler<R, 1, ND>>(direction);
    case 2:
      return of_training<TransposedSampler<R, 2, ND>>(direction);
    case 4:
      return of_training<TransposedSampler<R, 4, ND>>(direction);
    default:
      return nullptr;
  }
}

}  // namespace

SampleChunk transposed_body(Direction direction, const SampleJob& job) {
  const int taps = taps_of(direction, job);
  return with_ndim(job, [&](auto ndim) {
    return job.single ? transposed_by_taps<float, ndim.value>(direction, taps)
                      : transposed_by_taps<double, ndim.value>(direction, taps);
  });
}

int64_t transposed_bytes(Direction direction, const SampleJob& job) {
  const int taps = taps_of(direction, job);
  if (taps == 1 && direction == Direction::vjp_grid) return 0;  // slopes are none: level.cpp
  if ((taps != 1 && taps != 2 && taps != 4) || !fits_transposed(direction, job) || !is_uniform(job)) return 0;
  return job.single ? bytes_transposed<float>(direction, job) : bytes_transposed<double>(direction, job);
}
#else
SampleChunk transposed_body(Direction, const SampleJob&) { return nullptr; }
int64_t transposed_bytes(Direction, const SampleJob&) { return 0; }
#endif

}  // namespace pystn::PYSTN_LEVEL
