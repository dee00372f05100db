#include "channels.hpp"

#include "bodies.hpp"

namespace pystn::PYSTN_LEVEL {

#if defined(PYSTN_CHANNELS)
namespace {

template <class R, int ND>
SampleChunk with_channels(Direction direction, const SampleJob& job) {
  if (!fits_channels(direction, job)) return nullptr;
  const int taps = taps_of(direction, job);
  switch (taps) {
    case 1:
      return direction == Direction::vjp_input ? ChannelSampler<R, 1, ND>::vjp_input : nullptr;
    case 2:
      return vectorized<ChannelSampler<R, 2, ND>>(direction);
    case 4:
      return vectorized<ChannelSampler<R, 4, ND>>(direction);
    default:
      break;
  }
  if constexpr (ND == 2) {
    if (taps == 3) return of_many_taps<ChannelSampler<R, 3, 2>, 2>(direction, job);
    if (taps == 6) return of_many_taps<ChannelSampler<R, 6, 2>, 2>(direction, job);
    if (taps == 8) return of_many_taps<ChannelSampler<R, 8, 2>, 2>(direction, job);
  }
  return nullptr;
}

}  // namespace

SampleChunk body_of_channels(Direction direction, const SampleJob& job) {
  return with_ndim(job, [&](auto ndim) {
    return job.single ? with_channels<float, ndim.value>(direction, job)
                      : with_channels<double, ndim.value>(direction, job);
  });
}
#else
SampleChunk body_of_channels(Direction, const SampleJob&) { return nullptr; }
#endif

}  // namespace pystn::PYSTN_LEVEL
