// The sampler's second stage for batches of images of many channels, plane by plane in memory: a task
// brings an image's channels next to each other, in scratch memory that a near cache holds, and goes
// the way of channels.hpp from there. Whatever the grid is like, a tap is then one line of memory
// with 16 channels in it. Samples and cotangents change their order in registers, run by run.
#pragma once

#include "blocks.hpp"
#include "channels.hpp"

#if defined(PYSTN_BLOCKS) && defined(PYSTN_CHANNELS)
#define PYSTN_TRANSPOSED 1

namespace pystn::PYSTN_LEVEL {

// The scratch memory of one of the tasks that run at a time.
class Scratch {
  const SampleJob& job;
  int slot = 0;

 public:
  explicit Scratch(const SampleJob& job) : job(job) {
    while (__atomic_test_and_set(job.scratch_taken + slot, __ATOMIC_ACQUIRE)) slot = (slot + 1) % job.scratch_slots;
  }
  ~Scratch() { __atomic_clear(job.scratch_taken + slot, __ATOMIC_RELEASE); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return static_cast<char*>(job.scratch) + slot * job.scratch_bytes; }
};

template <class R, int S, int ND>
struct TransposedSampler : ChannelSampler<R, S, ND> {
  using Channels = ChannelSampler<R, S, ND>;
  using typename Channels::Places;
  using typename Channels::Sums;
  using Pixels = typename Channels::template Pixels<false>;
  using V = typename Vectors<R>::V;
  static constexpr int block = line_bytes / int(sizeof(R));  // channels are a multiple of these in scratch memory
  static constexpr int lanes = Vectors<R>::lanes;

  static int64_t padded(int64_t channels) { return (channels + block - 1) / block * block; }
  static int64_t pixels_of(const SampleJob& job) {
    int64_t pixels = 1;
    for (int a = 0; a < ND; ++a) pixels *= job.size[a];
    return pixels;
  }
  // So many images and a run.
  static int64_t bytes(const SampleJob& job, int images) {
    return padded(job.channels) * (images * pixels_of(job) + strip_columns + block) * int64_t(sizeof(R));
  }

  // Asks for what follows in `lanes` planes, as many pixels ahead as a run has: hardware does not see so many streams.
  static PYSTN_HD void prefetch_planes(const R* from, Index plane) {
    for (int l = 0; l < lanes; ++l) {
      const uintptr_t at = reinterpret_cast<uintptr_t>(from) + uintptr_t(l * plane + strip_columns) * sizeof(R);
      __builtin_prefetch(reinterpret_cast<const char*>(at), 0, 2);
    }
  }

  // to[i][c] = from[c][i], for `count` pixels and `channels` planes, `plane` apart; channels beyond them are 0.
  static void gather_planes(const R* from, Index plane, int count, int64_t channels, R* to, int64_t step) {
    int64_t c = 0;
    int offset[lanes];
    for (int l = 0; l < lanes; ++l) offset[l] = int(l * plane);
    for (; c + lanes <= channels; c += lanes) {
      int i = 0;
      for (; i + 4 <= count; i += 4) {
        if (i % block == 0) prefetch_planes(from + c * plane + i, plane);
        V pixel[4];
        Rows<4>::read(from + c * plane + i, offset, pixel);
        for (int k = 0; k < 4; ++k) __builtin_memcpy(to + (i + k) * step + c, &pixel[k], sizeof pixel[k]);
      }
      for (; i < count; ++i)
        for (int l = 0; l < lanes; ++l) to[i * step + c + l] = from[(c + l) * plane + i];
    }
    for (int i = 0; i < count; ++i)
      for (int64_t l = c; l < step; ++l) to[i * step + l] = l < channels ? from[l * plane + i] : R(0);
  }

  // to[c][i] = from[i][c]; with `streams` past the caches, in whole lines, which `to` has to begin with.
  template <bool streams>
  static void scatter_planes(const R* from, int64_t step, int count, int64_t channels, R* to, Index plane) {
    int offset[lanes];
    for (int l = 0; l < lanes; ++l) offset[l] = int(l * step);
    int i = 0;
    for (; i + lanes <= count; i += lanes) {
      int64_t c = 0;
      for (; c + 4 <= channels; c += 4) {
        alignas(64) V row[4];
        Rows<4>::read(from + i * step + c, offset, row);
        for (int k = 0; k < 4; ++k)
          if constexpr (streams)
            stream_line(to + (c + k) * plane + i, &row[k]);
          else
            __builtin_memcpy(to + (c + k) * plane + i, &row[k], sizeof row[k]);
      }
      for (; c < channels; ++c)
        for (int l = 0; l < lanes; ++l) to[c * plane + i + l] = from[(i + l) * step + c];
    }
    for (int64_t c = 0; i < count && c < channels; ++c)
      for (int l = i; l < count; ++l) to[c * plane + l] = from[l * step + c];
  }

  // Whether axes of these strides are one of stride 1; the first of them is the fastest.
  static bool is_linear(const int64_t* shape, const int64_t* stride, int count, int step) {
    int64_t expected = 1;
    for (int a = 0; a < count; ++a, shape += step, stride += step) {
      if (*shape > 1 && *stride != expected) return false;
      expected *= *shape;
    }
    return true;
  }

  // Calls body(offset in the image, in scratch memory, pixels) for pieces of an image's rows from low to high on its
  // slowest axis.
  template <class Body>
  static void for_each_piece(const SampleJob& job, const ImageArray& image, int64_t low, int64_t high, Body&& body) {
    constexpr int64_t piece = 4 * strip_columns;
    const auto row = [&](Index from, int64_t to, int64_t count) {
      for (int64_t i = 0; i < count; i += piece) body(from + i, to + i, int(count - i < piece ? count - i : piece));
    };
    const int64_t columns = job.size[0], middle = ND == 3 ? job.size[1] : 1;
    if (is_linear(job.size, image.axis, ND, 1)) {
      const int64_t slice = pixels_of(job) / job.size[ND - 1];
      return row(low * slice, low * slice, (high - low) * slice);
    }
    for (int64_t z = low; z < high; ++z)
      for (int64_t y = 0; y < middle; ++y)
        row(z * image.axis[ND - 1] + (ND == 3 ? y * image.axis[1] : 0), (z * middle + y) * columns, columns);
  }

  // The same image with its channels next to each other.
  static ImageArray transposed(const SampleJob& job, const ImageArray& image, void* data, int64_t step) {
    ImageArray to = image;
    to.data = data;
    to.batch = 0;
    to.channel = 1;
    to.axis[0] = step;
    for (int a = 1; a < ND; ++a) to.axis[a] = to.axis[a - 1] * job.size[a - 1];
    return to;
  }

  static void load_image(const SampleJob& job, int64_t n, R* to, int64_t step) {
    const R* const from = static_cast<const R*>(job.input.data) + n * job.input.batch;
    for_each_piece(job, job.input, 0, job.size[ND - 1], [&](Index at, int64_t pixel, int count) {
      gather_planes(from + at, job.input.channel, count, job.channels, to + pixel * step, step);
    });
  }

  // Calls body(span) for the runs of an image, row by row.
  template <int order, class Body>
  static void for_each_placed(const SampleJob& job, int64_t n, Pixels& pixels, Body&& body) {
    for_each_block(job, 0, 1, strip_columns, [&](const Span& span) {
      pixels.run.template place<order>(job, n, span);
      pixels.set(span.count);
      body(span);
    });
  }

  // Samples that wait to be written, pixel by pixel: past the caches, if whole lines of all planes begin alike and
  // pixels follow each other from row to row.
  struct Output {
    const SampleJob& job;
    R *const to, *const kept;
    const int64_t step, pixels;
    const bool streams;
    int64_t first = 0;
    int count = 0;

    Output(const SampleJob& job, int64_t n, R* kept, int64_t step)
        : job(job),
          to(static_cast<R*>(job.output.data) + n * job.output.batch),
          kept(kept),
          step(step),
          pixels(job.outer * job.rows * job.columns),
          streams(job.streams && sizeof(V) == line_bytes && job.output.channel % block == 0 &&
                  is_linear(job.shape + job.rank - 1, job.output.axis + job.rank - 1, job.rank, -1)) {}

    // Where the next samples are to be put.
    R* next() const { return kept + count * step; }

    void add(const Span& span) {
      if (!streams)
        return scatter_planes<false>(kept, step, span.count, job.channels, to + offset_of(job, job.output.axis, span),
                                     job.output.channel);
      count += span.count;
      const int before = int(reinterpret_cast<uintptr_t>(to + first) / sizeof(R) % block);
      if (before) write<false>(count < block - before ? count : block - before);
      write<sizeof(V) == line_bytes>(count / lanes * lanes);
      if (first + count == pixels) write<false>(count);
      for (int i = 0; written && i < count; ++i) memcpy(kept + i * step, kept + (written + i) * step, step * sizeof(R));
      written = 0;
    }

   private:
    int written = 0;  // of those kept

    template <bool by_lines>
    void write(int some) {
      scatter_planes<by_lines>(kept + written * step, step, some, job.channels, to + first, job.output.channel);
      first += some;
      written += some;
      count -= some;
    }
  };

  static void forward(const SampleJob& job, int64_t n) {
    const Scratch scratch(job);
    const int64_t step = padded(job.channels);
    R* const image = static_cast<R*>(scratch.data());
    load_image(job, n, image, step);
    Places places(transposed(job, job.input, image, step));
    Pixels pixels;
    Output output(job, n, image + pixels_of(job) * step, step);
    for_each_placed<0>(job, n, pixels, [&](const Span& span) {
      pixels.product.set(pixels.run, span.count);
      places.set(pixels.run, span.count);
      Channels::sample_run(pixels, places, image, step, 0, span.count, output.next(), step);
      output.add(span);
    });
    if (output.streams) end_streams();
  }

  // The cotangents of a run, their channels next to each other.
  static void load_cotangents(const SampleJob& job, int64_t n, const Span& span, int64_t channel0, int64_t channels,
                              R* to, int64_t step) {
    const R* const from = Channels::samples_of(job, job.output, n, span) + channel0 * job.output.channel;
    gather_planes(from, job.output.channel, span.count, channels, to, step);
  }

  static void vjp_grid(const SampleJob& job, int64_t n) {
    const Scratch scratch(job);
    const int64_t step = padded(job.channels);
    R *const image = static_cast<R*>(scratch.data()), *const cotangents = image + pixels_of(job) * step;
    load_image(job, n, image, step);
    Places places(transposed(job, job.input, image, step));
    Pixels pixels;
    Sums sums;
    alignas(64) R sum[ND][strip_columns];
    for_each_placed<1>(job, n, pixels, [&](const Span& span) {
      places.set(pixels.run, span.count);
      load_cotangents(job, n, span, 0, job.channels, cotangents, step);
      sums.clear(span.count);
      Channels::add_slopes(pixels, places, image, step, span.count, cotangents, step, sums);
      sums.total(span.count, sum);
      put_grad_grid<R, ND>(job, n, n, span, pixels.run, sum);
    });
  }

  // Adds up a part of the gradient to the input in scratch memory; more(n, span, cotangents) sees the runs.
  template <int order, class More>
  static void add_up(const SampleJob& job, const Part& part, R* grad, Pixels& pixels, More&& more) {
    const int64_t channels = part.channel1 - part.channel0, step = padded(channels);
    const int64_t row = pixels_of(job) / job.size[ND - 1];
    memset(grad + part.low * row * step, 0, (part.high - part.low) * row * step * sizeof(R));
    R* const cotangents = grad + pixels_of(job) * step;
    Places places(transposed(job, job.grad_input, grad, step));
    for (int64_t n = part.n0; n < part.n1; ++n)
      for_each_placed<order>(job, n, pixels, [&](const Span& span) {
        if (job.bands > 1) {
          pixels.run.restrict_to(part.low, part.high, span.count);
          pixels.set(span.count);
        }
        pixels.product.set(pixels.run, span.count);
        places.set(pixels.run, span.count);
        load_cotangents(job, n, span, part.channel0, channels, cotangents, step);
        more(n, span, cotangents, step);
        Channels::add_run(pixels, places, grad, step, 1, span.count, cotangents, step);
      });
    store_image(job, part, grad, step);
  }

  static void store_image(const SampleJob& job, const Part& part, const R* from, int64_t step) {
    const ImageArray& image = job.grad_input;
    R* const to = static_cast<R*>(image.data) + part.n0 * image.batch + part.channel0 * image.channel;
    const int64_t channels = part.channel1 - part.channel0,
                  bytes = job.input_batch * job.channels * pixels_of(job) * sizeof(R);
    const bool streams = bytes >= job.stream_from && sizeof(V) == line_bytes && image.channel % block == 0;
    for_each_piece(job, image, part.low, part.high, [&](Index at, int64_t pixel, int count) {
      const R* here = from + pixel * step;
      if (streams) {
        int begin = int(block - reinterpret_cast<uintptr_t>(to + at) / sizeof(R) % block) % block;
        begin = begin < count ? begin : count;
        const int lines = (count - begin) / block * block;
        scatter_planes<false>(here, step, begin, channels, to + at, image.channel);
        scatter_planes<sizeof(V) == line_bytes>(here + begin * step, step, lines, channels, to + at + begin,
                                                image.channel);
        begin += lines;
        at += begin;
        count -= begin;
        here += begin * step;
      }
      scatter_planes<false>(here, step, count, channels, to + at, image.channel);
    });
    if (streams) end_streams();
  }

  static void vjp_input(const SampleJob& job, int64_t task) {
    const Scratch scratch(job);
    Pixels pixels;
    add_up<0>(job, Part(job, task), static_cast<R*>(scratch.data()), pixels,
              [](int64_t, const Span&, const R*, int64_t) {});
  }

  // Both gradients in one pass, where a task owns all of an image's and each grid has one image.
  static void vjp(const SampleJob& job, int64_t task) {
    const Scratch scratch(job);
    const Part part(job, task);
    R* const image = static_cast<R*>(scratch.data());
    load_image(job, part.n0, image, padded(job.channels));
    Places places(transposed(job, job.input, image, padded(job.channels)));
    Pixels pixels;
    Sums sums;
    alignas(64) R sum[ND][strip_columns];
    R* const grad = image + pixels_of(job) * padded(job.channels);
    add_up<1>(job, part, grad, pixels, [&](int64_t n, const Span& span, const R* cotangents, int64_t step) {
      places.set(pixels.run, span.count);
      sums.clear(span.count);
      Channels::add_slopes(pixels, places, image, step, span.count, cotangents, step, sums);
      sums.total(span.count, sum);
      put_grad_grid<R, ND>(job, n, n, span, pixels.run, sum);
    });
  }
};

// Whether a job of a type and kernels that fit is better done this way: the same for all directions of a call, so that
// what a gradient is made by does not depend on threads.
inline bool fits_transposed(Direction direction, const SampleJob& job) {
  if (!is_of_training(direction)) return false;
  if (job.channels < whole_channels || job.batch < whole_images || chunks_per_image(job) != 1) return false;
  if (job.components != 1 || job.fill || job.mask.data || job.projected || job.chosen.data) return false;
  if (job.output_batch != job.batch || job.input_batch != job.batch || job.grid_batch != job.batch) return false;
  int64_t pixels = 1;
  for (int a = 0; a < job.ndim; ++a) pixels *= job.size[a];
  // Most of what is rearranged might not be read; a gradient is all written.
  const bool writes = job.grad_input.data || job.grad_input.channel;
  if ((writes ? 64 : 2) * job.outer * job.rows * job.columns < pixels) return false;
  // Planes not too far apart for offsets of 16 of them.
  const auto are_planes = [](int64_t column, int64_t channel) {
    return column == 1 && channel > 1 && channel < int64_t(1) << 26;
  };
  const auto has_planes = [&](const ImageArray& image) {
    if (are_planes(image.axis[0], image.channel)) return true;
    bool is_absent = !image.data && image.channel == 0;  // from the whole call, not from this direction alone
    for (int a = 0; a < job.ndim; ++a) is_absent = is_absent && image.axis[a] == 0;
    return is_absent;
  };
  return are_planes(column_stride(job, job.output.axis), job.output.channel) && has_planes(job.input) &&
         has_planes(job.grad_input);
}

// What a task needs, or 0 if an image is too large for a near cache.
template <class R, int ND>
int64_t bytes_transposed(Direction direction, const SampleJob& job) {
  using Sampler = TransposedSampler<R, 2, ND>;
  constexpr int64_t most = 1 << 22;
  if (Sampler::padded(job.channels) * Sampler::pixels_of(job) * int64_t(sizeof(R)) > most) return 0;
  return Sampler::bytes(job, direction == Direction::vjp ? 2 : 1);
}

template <class R>
int64_t bytes_transposed(Direction direction, const SampleJob& job) {
  return job.ndim == 1   ? bytes_transposed<R, 1>(direction, job)
         : job.ndim == 2 ? bytes_transposed<R, 2>(direction, job)
                         : bytes_transposed<R, 3>(direction, job);
}

}  // namespace pystn::PYSTN_LEVEL
#endif
