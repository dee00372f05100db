// Bodies of one instruction set for forward jobs on small pixels and small types, and for copies. Compiled once per
// level, as level.cpp is, which calls it.
#include "pixels.hpp"

#include "copies.hpp"

namespace pystn::PYSTN_LEVEL {

// The body for a forward job, or null if the general one has to do it.
SampleChunk body_of_pixels(const SampleJob& job) {
  if (const SampleChunk body = copies(job)) return body;
#if defined(PYSTN_PIXELS)
  return pixels(job);
#else
  return nullptr;
#endif
}

}  // namespace pystn::PYSTN_LEVEL
