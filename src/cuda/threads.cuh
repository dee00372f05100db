// Which turns a thread takes, and sums over the threads of a block.
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

// The sum over a warp, of all of its lanes.
PYSTN_HD double warp_sum(double x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
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
