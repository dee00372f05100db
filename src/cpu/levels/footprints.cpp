// The chunk bodies of samples with footprints, of one instruction set: apart from the others, which take longest.
#include "footprint_sampling.hpp"

namespace pystn::PYSTN_LEVEL {

SampleChunk footprint_body(Direction direction, const SampleJob& job) {
  if (job.footprint->covariances)
    return job.single ? footprint_direction<float, EllipseTaps>(direction)
                      : footprint_direction<double, EllipseTaps>(direction);
  return job.single ? footprint_direction<float, ScaleTaps>(direction)
                    : footprint_direction<double, ScaleTaps>(direction);
}

}  // namespace pystn::PYSTN_LEVEL
