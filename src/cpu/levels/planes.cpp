#include "planes.hpp"

#include "bodies.hpp"
#include "plane_gradients.hpp"

namespace pystn::PYSTN_LEVEL {

SampleChunk body_of_planes([[maybe_unused]] Direction direction, [[maybe_unused]] const SampleJob& job) {
#if defined(PYSTN_EIGHT_LANES)
  if (direction == Direction::forward) {
#if !defined(__AVX512F__)
    if (const SampleChunk body = packed_pixels(job)) return body;
#endif
    return planes(job);
  }
#endif
#if defined(PYSTN_PLANE_GRADIENTS)
  return plane_gradients(direction, job);
#endif
  return nullptr;
}

}  // namespace pystn::PYSTN_LEVEL
