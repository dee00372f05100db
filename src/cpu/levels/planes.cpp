#include "planes.hpp"

#include "bodies.hpp"

namespace pystn::PYSTN_LEVEL {

SampleChunk body_of_planes([[maybe_unused]] const SampleJob& job) {
#if defined(PYSTN_PLANES)
  return planes(job);
#else
  return nullptr;
#endif
}

}  // namespace pystn::PYSTN_LEVEL
