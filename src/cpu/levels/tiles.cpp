#include "tiles.hpp"

#include "bodies.hpp"

namespace pystn::PYSTN_LEVEL {

SampleChunk body_of_tiles([[maybe_unused]] Direction direction, [[maybe_unused]] const SampleJob& job) {
#if defined(PYSTN_TILES)
  return tiled(direction, job);
#else
  return nullptr;
#endif
}

}  // namespace pystn::PYSTN_LEVEL
