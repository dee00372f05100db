#include "pixels.hpp"

#include "bodies.hpp"
#include "copies.hpp"

namespace pystn::PYSTN_LEVEL {

SampleChunk body_of_pixels(const SampleJob& job) {
  if (const SampleChunk body = body_of_planes(Direction::forward, job)) return body;
  if (const SampleChunk body = copies(job)) return body;
#if defined(PYSTN_PIXELS)
  return pixels(job);
#else
  return nullptr;
#endif
}

}  // namespace pystn::PYSTN_LEVEL
