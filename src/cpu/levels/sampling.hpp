// The sampler's loops for any type, stride, layout, kernel and dimension: one pixel at a time, its
// taps computed once, the channels inside. The special cases in tiles.hpp give the same bits.
//
// Directions: forward and jvp write the output's pixels, vjp_grid the grid's, in chunks of pixels;
// vjp_input adds to the input's pixels, in tasks that each own a part of them.
#pragma once

#include "parts.hpp"
#include "strip.hpp"
#include "taps.hpp"

namespace pystn::PYSTN_LEVEL {

// T: the image's type, R: the arithmetic's.
template <class T, class R, class Kernel, int ND>
struct Sampler {
  using SampleTaps = Taps<Kernel, ND, R>;

  // Taps of pixel i of a strip, within the source window or the part of it given by low and high.
  struct Source {
    Index low[ND], high[ND], stride[ND];
    R tolerance[ND];

    Source(const SampleJob& job, const ImageArray& image) {
      for (int a = 0; a < ND; ++a) {
        low[a] = 0;
        high[a] = job.size[a];
        stride[a] = image.axis[a];
        tolerance[a] = lattice_tolerance<R>(Subgradient(job.subgradient), job.full[a]);
      }
    }

    SampleTaps taps(const Strip<R>& strip, int i) const {
      R position[ND];
      for (int a = 0; a < ND; ++a) position[a] = strip.position[a][i];
      return SampleTaps(position, low, high, stride, tolerance);
    }
  };

  static R gather(const T* pixels, const SampleTaps& taps, const R* weights) {
    R sum = weights[0] * R(taps.count ? pixels[taps.offset[0]] : T(0));
    if (taps.count == SampleTaps::capacity)
      for (int k = 1; k < SampleTaps::capacity; ++k) sum += weights[k] * R(pixels[taps.offset[k]]);
    else
      for (int k = 1; k < taps.count; ++k) sum += weights[k] * R(pixels[taps.offset[k]]);
    return taps.count ? sum : R(0);
  }

  static const T* image_of(const ImageArray& image, int64_t n) {
    return static_cast<const T*>(image.data) + n * image.batch;
  }
  static T* samples_of(const SampleArray& samples, int64_t n) {
    return static_cast<T*>(samples.data) + n * samples.batch;
  }

  // out[c] = sum_k w_k input[c, k], channels next to each other.
  static void gather_channels(const T* __restrict pixels, const SampleTaps& taps, int64_t channels, T* __restrict out) {
    if (taps.count == SampleTaps::capacity) {
      for (int64_t c = 0; c < channels; ++c) {
        R sum = taps.weight[0] * R(pixels[taps.offset[0] + c]);
        for (int k = 1; k < SampleTaps::capacity; ++k) sum += taps.weight[k] * R(pixels[taps.offset[k] + c]);
        out[c] = T(sum);
      }
    } else {
      for (int64_t c = 0; c < channels; ++c) out[c] = T(gather(pixels + c, taps, taps.weight));
    }
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const Source source(job, job.input);
    const T* const input = image_of(job.input, n);
    const int64_t column = column_stride(job, job.output.axis), row = row_stride(job, job.output.axis);
    const bool channels_last = job.input.channel == 1 && job.output.channel == 1;
    Strip<R> strip;
    for_each_strip(job, chunk % chunks_per_image(job), [&](const Span& span) {
      project<false>(job, n, span, strip);
      T* const output = samples_of(job.output, n) + offset_of(job, job.output.axis, span);
      for (int r = 0; r < span.rows; ++r)
        for (int i = 0; i < span.count; ++i) {
          const SampleTaps taps = source.taps(strip, r * strip_columns + i);
          T* const out = output + r * row + i * column;
          if (channels_last)
            gather_channels(input, taps, job.channels, out);
          else
            for (int64_t c = 0; c < job.channels; ++c)
              out[c * job.output.channel] = T(gather(input + c * job.input.channel, taps, taps.weight));
        }
    });
  }

  // d_output = sample(d_input) + sum_a d_grid_a dp_a/dgrid_a dV/dp_a
  static void jvp(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const Source source(job, job.input);
    const Source tangent_source(job, job.d_input);
    const T* const input = image_of(job.input, n);
    const T* const d_input = job.d_input.data ? image_of(job.d_input, n) : nullptr;
    const int64_t column = column_stride(job, job.output.axis), row = row_stride(job, job.output.axis);
    Strip<R> strip;
    for_each_strip(job, chunk % chunks_per_image(job), [&](const Span& span) {
      project<true>(job, n, span, strip);
      T* const output = samples_of(job.output, n) + offset_of(job, job.output.axis, span);
      for (int r = 0; r < span.rows; ++r)
        for (int i = 0; i < span.count; ++i) {
          const int pixel = r * strip_columns + i;
          T* const out = output + r * row + i * column;
          const SampleTaps taps = source.taps(strip, pixel);
          R along[SampleTaps::capacity] = {};  // weights of the derivative along d_grid
          if (job.d_grid.data)
            for (int a = 0; a < ND; ++a) {
              const R d = strip.factor[a][pixel] * R(grid_element(job, job.d_grid, n, span, r, i, a));
              if (strip.factor[a][pixel] == R(0)) continue;
              for (int k = 0; k < taps.count; ++k) along[k] += d * taps.slope[a][k];
            }
          if (!d_input) {
            for (int64_t c = 0; c < job.channels; ++c)
              out[c * job.output.channel] = T(gather(input + c * job.input.channel, taps, along));
          } else {
            const SampleTaps tangent = tangent_source.taps(strip, pixel);
            for (int64_t c = 0; c < job.channels; ++c) {
              R d = gather(d_input + c * job.d_input.channel, tangent, tangent.weight);
              if (job.d_grid.data) d += gather(input + c * job.input.channel, taps, along);
              out[c * job.output.channel] = T(d);
            }
          }
        }
    });
  }

  // grad_grid_a = dp_a/dgrid_a sum_c grad_output_c dV_c/dp_a; over the batch too if it shares a grid.
  static void vjp_grid(const SampleJob& job, int64_t chunk) {
    const int64_t n0 = chunk / chunks_per_image(job);
    const int64_t n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    const Source source(job, job.input);
    const int64_t column = column_stride(job, job.output.axis), row = row_stride(job, job.output.axis);
    Strip<R> strip;
    for_each_strip(job, chunk % chunks_per_image(job), [&](const Span& span) {
      project<true>(job, n0, span, strip);
      const int64_t first = offset_of(job, job.output.axis, span);
      for (int r = 0; r < span.rows; ++r)
        for (int i = 0; i < span.count; ++i) {
          const int pixel = r * strip_columns + i;
          const SampleTaps taps = source.taps(strip, pixel);
          R sum[ND] = {};
          // A sample outside has no slope, whatever its cotangent.
          for (int64_t n = n0; taps.count && n < n1; ++n) {
            const T* const input = image_of(job.input, n);
            const T* const cotangent = samples_of(job.output, n) + first + r * row + i * column;
            for (int64_t c = 0; c < job.channels; ++c) {
              const R g = R(cotangent[c * job.output.channel]);
              R slope[ND] = {};
              for (int k = 0; k < taps.count; ++k) {
                const R value = R(input[c * job.input.channel + taps.offset[k]]);
                for (int a = 0; a < ND; ++a) slope[a] += taps.slope[a][k] * value;
              }
              for (int a = 0; a < ND; ++a) sum[a] += g * slope[a];
            }
          }
          for (int a = 0; a < ND; ++a) {
            const R f = strip.factor[a][pixel];
            set_grid_element(job, job.grad_grid, n0, span, r, i, a, f == R(0) ? R(0) : f * sum[a]);
          }
        }
    });
  }

  // grad_input += w_k grad_output. A task owns an image of the batch, a block of its channels and a
  // band of its slowest axis.
  static void vjp_input(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    Source source(job, job.grad_input);
    source.low[ND - 1] = part.low;
    source.high[ND - 1] = part.high;
    T* const image = static_cast<T*>(job.grad_input.data) + part.n0 * job.grad_input.batch;
    const bool channels_last = job.grad_input.channel == 1 && job.output.channel == 1;
    part.template clear<T>(job);
    const int64_t column = column_stride(job, job.output.axis), row = row_stride(job, job.output.axis);
    Strip<R> strip;
    for (int64_t n = part.n0; n < part.n1; ++n)
      for (int64_t chunk = 0; chunk < chunks_per_image(job); ++chunk) {
        const Reach* reach = job.reach ? reaches_of(job, n, chunk) : nullptr;
        for_each_strip(job, chunk, [&](const Span& span) {
          if (reach && !part.meets(*reach++)) return;
          project<false>(job, n, span, strip);
          const T* const cotangent = samples_of(job.output, n) + offset_of(job, job.output.axis, span);
          for (int r = 0; r < span.rows; ++r)
            for (int i = 0; i < span.count; ++i) {
              const SampleTaps taps = source.taps(strip, r * strip_columns + i);
              const T* const g = cotangent + r * row + i * column;
              if (channels_last)
                for (int k = 0; k < taps.count; ++k)
                  for (int64_t c = part.channel0; c < part.channel1; ++c)
                    image[taps.offset[k] + c] += T(R(g[c]) * taps.weight[k]);
              else
                for (int64_t c = part.channel0; c < part.channel1; ++c) {
                  T* const pixels = image + c * job.grad_input.channel;
                  const R value = R(g[c * job.output.channel]);
                  for (int k = 0; k < taps.count; ++k) pixels[taps.offset[k]] += T(value * taps.weight[k]);
                }
            }
        });
      }
  }
};

}  // namespace pystn::PYSTN_LEVEL
