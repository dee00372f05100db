// Which turns a thread takes, or a warp, and sums over the threads of these and of a block.
#pragma once

#include "portability.hpp"

namespace pystn::PYSTN_LEVEL {

// What a thread does, and how far it is to that of its next turn.
PYSTN_HD Index first_turn() { return Index(blockIdx.x) * blockDim.x + threadIdx.x; }
PYSTN_HD Index turn_stride() { return Index(gridDim.x) * blockDim.x; }

// Of numbers that are not negative, and often 1.
PYSTN_HD int quotient(int a, int b) { return b == 1 ? a : int(unsigned(a) / unsigned(b)); }
PYSTN_HD Index quotient(Index a, Index b) { return b == 1 ? a : a / b; }

constexpr int block_threads = 256;

constexpr unsigned all_lanes = 0xffffffffu;  // of a warp

// The sum over a warp, of all of its lanes.
PYSTN_HD double warp_sum(double x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(all_lanes, x, offset);
  return x;
}

// Sums over a warp of `count` numbers of each lane, a power of two: lane l returns that of number l / (32 / count).
// At each step a lane hands over half of its numbers, to the lane that keeps those. The lanes are added in the same
// order whatever the count is.
template <int offset = 16, int count>
PYSTN_HD double warp_sum(int lane, const double (&value)[count]) {
  if constexpr (offset == 0) {
    return value[0];
  } else if constexpr (count == 1) {
    const double sum[1] = {value[0] + __shfl_xor_sync(all_lanes, value[0], offset)};
    return warp_sum<offset / 2>(lane, sum);
  } else {
    double sum[count / 2];
    for (int i = 0; i < count / 2; ++i) {
      const double low = value[i], high = value[i + count / 2];
      const bool upper = (lane & offset) != 0;
      sum[i] = (upper ? high : low) + __shfl_xor_sync(all_lanes, upper ? low : high, offset);
    }
    return warp_sum<offset / 2>(lane, sum);
  }
}

// Add such sums of the first `entries` numbers to those at `to`: each by a lane of its own.
template <int entries, int count>
PYSTN_HD void add_warp_sum(int lane, const double (&value)[count], double* to) {
  constexpr int spread = 32 / count;
  const double sum = warp_sum(lane, value);
  if (lane % spread == 0 && lane / spread < entries) to[lane / spread] += sum;
}

// Calls `part` with each label that lanes of a warp have, and whether this lane has it: all lanes, one label after the
// other. Lanes of a negative one have none.
template <class Part>
PYSTN_HD void for_each_label(Index label, Part&& part) {
  unsigned left = __ballot_sync(all_lanes, label >= 0);
  while (left) {
    const Index chosen = __shfl_sync(all_lanes, label, __ffs(int(left)) - 1);
    const bool mine = label == chosen;
    left &= ~__ballot_sync(all_lanes, mine);
    part(chosen, mine);
  }
}

// The points of maps or fields in parts, which warps take in turn.
struct PointParts {
  Index maps, points;
  Index size, count;  // of each part, a multiple of 32, but for the last; of the parts of a map
};

// A point of such a part: lanes without one are there too, for what all do together.
struct WarpPoint {
  Index task, map, point;
  int lane;
  bool present;
};

PYSTN_HD Index first_warp() { return first_turn() / 32; }

template <class Each>
PYSTN_HD void for_each_warp_point(const PointParts& parts, Each&& each) {
  WarpPoint at;
  at.lane = int(threadIdx.x % 32);
  for (at.task = first_warp(); at.task < parts.maps * parts.count; at.task += turn_stride() / 32) {
    at.map = at.task / parts.count;
    const Index first = at.task % parts.count * parts.size, end = first + parts.size;
    const Index last = end < parts.points ? end : parts.points;
    for (Index near = first; near < last; near += 32) {
      at.point = near + at.lane;
      at.present = at.point < last;
      each(at);
    }
  }
}

// The sum over a block, in an order of its own; of thread 0 alone. `room` has a number for each thread.
PYSTN_HD double block_sum(double x, double* room) {
  room[threadIdx.x] = x;
  __syncthreads();
  for (int half = block_threads / 2; half > 0; half /= 2) {
    if (int(threadIdx.x) < half) room[threadIdx.x] += room[threadIdx.x + half];
    __syncthreads();
  }
  const double sum = room[0];
  __syncthreads();
  return sum;
}

}  // namespace pystn::PYSTN_LEVEL
