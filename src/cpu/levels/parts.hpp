// Ownership of the gradient to the input. A task owns an image of the batch (or the one image that
// the batch shares), a block of channels and a band of rows along the slowest axis; nobody else
// writes there, so there are no atomics and no private copies, and however the parts are cut each
// element receives its terms in an order that follows from the shapes: run by run of the output,
// and within a run as the body has it. So it is bitwise the same for any number of threads.
#pragma once

#include <string.h>

#include "elements.hpp"
#include "job.hpp"

namespace pystn::PYSTN_LEVEL {

// Channels of complex arrays are their parts, next to each other.
inline Index channel_offset(const SampleJob& job, Index stride, Index c) {
  return job.components == 1 ? c * stride : (c >> 1) * stride + (c & 1);
}

struct Part {
  int64_t n0, n1;  // samples of the batch that read this image
  int64_t channel0, channel1;
  int64_t low, high;  // indices on the slowest axis

  Part(const SampleJob& job, int64_t task) {
    const int64_t band = task % job.bands, block = task / job.bands % job.channel_blocks;
    const int64_t image = task / job.bands / job.channel_blocks;
    n0 = image;
    n1 = job.input_batch == 1 ? job.batch : image + 1;
    channel0 = job.channels * block / job.channel_blocks;
    channel1 = job.channels * (block + 1) / job.channel_blocks;
    const int64_t length = job.size[job.ndim - 1];
    low = length * band / job.bands;
    high = length * (band + 1) / job.bands;
  }

  bool meets(const Reach& reach) const { return reach.low < high && reach.high > low; }

  // One channel of another part.
  Part(const Part& other, int64_t channel) : Part(other) {
    channel0 = channel;
    channel1 = channel + 1;
  }

  void clear(const SampleJob& job) const {
    job.grad_input.type == Element::f64 ? clear<double>(job) : clear<float>(job);
  }

  template <class T>
  void clear(const SampleJob& job) const {
    const int64_t* const stride = job.grad_input.axis;
    const int64_t columns = job.size[0];
    // Rows below the slowest axis, which the last of the loops below walks.
    const int64_t middle = job.ndim == 3 ? job.size[1] : 1;
    T* const image = static_cast<T*>(job.grad_input.data) + n0 * job.grad_input.batch;
    // Elements of what one index of the slowest axis has, if all of them are next to each other.
    int64_t slab = 1;
    bool packed = job.components == 1;
    for (int a = 0; a < job.ndim; ++a) {
      packed = packed && stride[a] == slab;
      if (a < job.ndim - 1) slab *= job.size[a];
    }
    if (packed) {
      for (int64_t c = channel0; c < channel1; ++c)
        memset(image + c * job.grad_input.channel + low * slab, 0, size_t((high - low) * slab) * sizeof(T));
      return;
    }
    if (job.ndim == 1) {
      for (int64_t c = channel0; c < channel1; ++c)
        for (int64_t i = low; i < high; ++i)
          image[channel_offset(job, job.grad_input.channel, c) + i * stride[0]] = T(0);
      return;
    }
    const bool channels_last = job.grad_input.channel == 1 && job.components == 1;
    for (int64_t z = low; z < high; ++z)
      for (int64_t y = 0; y < middle; ++y) {
        T* const row = image + z * stride[job.ndim - 1] + (job.ndim == 3 ? y * stride[1] : 0);
        if (channels_last && channel0 == 0 && stride[0] == channel1)
          for (int64_t i = 0; i < columns * channel1; ++i) row[i] = T(0);
        else if (channels_last)
          for (int64_t i = 0; i < columns; ++i)
            for (int64_t c = channel0; c < channel1; ++c) row[i * stride[0] + c] = T(0);
        else
          for (int64_t c = channel0; c < channel1; ++c) {
            T* const channel = row + channel_offset(job, job.grad_input.channel, c);
            if (stride[0] == 1)
              for (int64_t i = 0; i < columns; ++i) channel[i] = T(0);
            else
              for (int64_t i = 0; i < columns; ++i) channel[i * stride[0]] = T(0);
          }
      }
  }
};

}  // namespace pystn::PYSTN_LEVEL
