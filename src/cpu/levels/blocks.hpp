// The sampler's second stage on blocks of output pixels, one pixel a lane of the widest vector that
// the instruction set has: images of the arithmetic's type with neighbours next to each other along
// x, 1, 2, 3, 4, 6 or 8 taps on every axis. It is the loop of sampling.hpp over vectors instead of numbers, and
// gives the same bits.
//
// Taps of a pixel are neighbours in memory: a row of them is one load, and a transpose turns those of
// a block's pixels into one vector per tap (block_taps.hpp). Processors gather from memory more slowly, so only blocks
// at the border do, through masks. What is left is the scatter, which adds one tap of all pixels of a run before the
// next, so that no addition waits for the one before it; that of linear is in strip_scatter.hpp.
#pragma once

#if defined(__GNUC__)
#define PYSTN_BLOCKS 1

#include "block_taps.hpp"
#include "stream.hpp"
#include "strip_scatter.hpp"

namespace pystn::PYSTN_LEVEL {

template <class R, int S, int ND>
struct BlockSampler : Sampler<R, R, S, ND>, BlockTaps<R, S, ND> {
  using General = Sampler<R, R, S, ND>;
  using Taps = BlockTaps<R, S, ND>;
  using typename Taps::Blocks;
  using typename Taps::Flags;
  using typename Taps::Mask;
  using typename Taps::Places;
  using typename Taps::Reading;
  using typename Taps::V;
  using typename Taps::Weights;
  template <int order>
  using KnownTaps = typename Taps::template KnownTaps<order>;
  template <int order>
  using UsualWeights = typename Taps::template UsualWeights<order>;
  template <bool slopes>
  using FlatWeights = typename Taps::template FlatWeights<slopes>;
  template <class Known>
  using Plain = typename Taps::template Plain<Known>;
  template <class Known>
  using OddTaps = typename Taps::template OddTaps<Known>;
  template <class Known>
  using Light = typename Taps::template Light<Known>;
  using Taps::by_reading;
  using Taps::end_of_plain;
  using Taps::flat;
  using Taps::lanes;
  using Taps::load;
  using Taps::slopes;
  using Taps::together;
  using Taps::value;
  using Taps::where_read;
  static constexpr bool has_many_taps = S == 3 || S > 4;  // not so common: no projections, less code

  // One block of a row of samples: up to `count` pixels.
  static PYSTN_HD void store(V x, R* to, Index column, int count) {
    if (column == 1 && count >= lanes) {
      __builtin_memcpy(to, &x, sizeof x);
      return;
    }
    alignas(vector_bytes) R buffer[lanes];
    __builtin_memcpy(buffer, &x, sizeof x);
    for (int l = 0; l < lanes && l < count; ++l) to[l * column] = buffer[l];
  }
  static PYSTN_HD V load(const R* from, Index column, int count) {
    if (column == 1 && count >= lanes) return load(from);
    alignas(vector_bytes) R buffer[lanes] = {};
    for (int l = 0; l < lanes && l < count; ++l) buffer[l] = from[l * column];
    return load(buffer);
  }

  static R* samples_of(const SampleJob& job, const SampleArray& samples, int64_t n, const Span& span) {
    return static_cast<R*>(samples.data) + General::place_of(job, samples, n, span, 0);
  }

  // Where the samples of a strip or run go: to the output, or to a stream on their way there.
  struct Target {
    R* at;
    Index row, column, channel;
    bool adds;  // to those of less depth

    PYSTN_HD Target from(int64_t r, int64_t i) const { return {at + r * row + i * column, row, column, channel, adds}; }
  };

  // Projections are of volumes.
  static PYSTN_HD bool projects(const SampleJob& job) { return ND == 3 && job.projected; }
  static PYSTN_HD bool chooses(const SampleJob& job) { return projects(job) && job.chosen.data; }

  // Which samples of a row were chosen, where one of each depth is.
  struct Chosen {
    int32_t* at;
    Index column;
    int32_t depth;

    Chosen(const SampleJob& job, int64_t n, const Span& span, int64_t c)
        : at(&General::chosen_at(job, n, span, 0, c)),
          column(column_stride(job, job.chosen.axis)),
          depth(int32_t(General::depth_of(job, span))) {}
    bool operator()(int i) const { return at[i * column] == depth; }
  };

  // Whether any samples of a block were; `mask` has which.
  static PYSTN_APART bool any_chosen(const SampleJob& job, int64_t n, const Span& span, int64_t c, int i, Mask& mask) {
    const Chosen chosen(job, n, span, c);
    bool any = false;
    mask = Mask{};
    for (int l = 0; l < lanes && i + l < span.count; ++l) {
      mask[l] = chosen(i + l) ? -1 : 0;
      any |= chosen(i + l);
    }
    return any;
  }

  // What is where samples at other depths, `before`, may be, after those of a block: General::put_projected.
  static PYSTN_APART V choose(const SampleJob& job, int64_t n, const Span& span, int64_t c, int i, V x, V before) {
    if (!job.maximum) {
      Mask mask;
      any_chosen(job, n, span, c, i, mask);
      return mask ? x : before;
    }
    const Chosen chosen(job, n, span, c);
    const Mask larger = chosen.depth == 0 ? Mask{} == Mask{} : (x > before) | ((x != x) & (before == before));
    for (int l = 0; l < lanes && i + l < span.count; ++l)
      if (larger[l]) chosen.at[(i + l) * chosen.column] = chosen.depth;
    return larger ? x : before;
  }

  // Puts a block of samples where it goes, up to the end of its run.
  static PYSTN_HD void put(const SampleJob& job, int64_t n, const Span& span, const Target& to, int64_t c, int i, V x) {
    R* const at = to.at + i * to.column + c * to.channel;
    const int count = span.count - i;
    if (chooses(job))
      x = choose(job, n, span, c, i, x, load(at, to.column, count));
    else if (to.adds)
      x += load(at, to.column, count);
    store(x, at, to.column, count);
  }

  // Calls body(span) for the runs of a chunk, placed for whole blocks.
  template <int order, class Body>
  static void for_each_placed(const SampleJob& job, int64_t n, int64_t chunk, Run<R, ND>& run, Blocks& blocks,
                              Body&& body) {
    General::template for_each_placed<order>(
        job, n, chunk, run,
        [&](const Span& span) {
          blocks.set(run, run.placed);
          body(span);
        },
        lanes);
  }

  // Where there are tiles, which are of several rows, strips are too.
  template <class Body>
  static PYSTN_HD void for_each_written_strip(const SampleJob& job, int64_t chunk, Body&& body) {
#if defined(__AVX512F__)
    for_each_strip(job, chunk, body);
#else
    for_each_long_strip(job, chunk, body);
#endif
  }

  // Calls body(strip, target) for the strips of a chunk, whose samples are written,
  template <class Body>
  static PYSTN_HD void for_each_unstreamed(const SampleJob& job, int64_t n, int64_t chunk, Body&& body) {
    const Index row = row_stride(job, job.output.axis), column = column_stride(job, job.output.axis);
    for_each_written_strip(job, chunk, [&](const Span& strip) {
      const bool adds = projects(job) && General::depth_of(job, strip) != 0;
      body(strip, Target{samples_of(job, job.output, n, strip), row, column, job.output.channel, adds});
    });
  }

  // past the caches where that pays. The body is called from both, and better not inlined.
  template <class Body>
  static void for_each_written(const SampleJob& job, int64_t n, int64_t chunk, Body&& body) {
    const Index column = column_stride(job, job.output.axis), channel = job.output.channel;
    if (!job.streams || projects(job) || column != 1 || job.channels > streamed)
      return for_each_unstreamed(job, n, chunk, body);
    const Index row = row_stride(job, job.output.axis);
    Stream<R, streamed, strip_rows, strip_columns> stream(row, channel);
    for_each_written_strip(job, chunk, [&](const Span& strip) {
      R* const there = samples_of(job, job.output, n, strip);
      R* const here = stream.begin(there);
      body(strip, Target{here, stream.row, 1, stream.channel, false});
      stream.end(there, row, channel, int(job.channels), strip.rows, strip.count, is_first(job, strip),
                 is_last(job, strip));
    });
    end_streams();
  }

  // Calls body(span, target) for the runs of a strip.
  template <class Body>
  static PYSTN_HD void for_each_run_to(const SampleJob& job, const Span& strip, const Target& to, Body&& body) {
    for_each_run(job, strip,
                 [&](const Span& span) { body(span, to.from(span.row - strip.row, span.column - strip.column)); });
  }

  // output_c = values(way, c, i, weights), for the blocks of a run that have pixels which are wanted.
  template <bool slopes, class Values>
  static PYSTN_APART void put_blocks(const SampleJob& job, int64_t n, const Span& span, const Target& to,
                                     const Run<R, ND>& run, const Blocks& blocks, Bits wanted, Values&& values) {
    for (int i = 0; i < span.count; i += lanes) {
      if (!(wanted >> i & first_bits(lanes))) continue;
      const Reading reading = blocks.reading(i);
      if (reading == Reading::nothing) {
        for (int64_t c = 0; c < job.channels; ++c) put(job, n, span, to, c, i, V{});
        continue;
      }
      const FlatWeights<slopes> weights(Weights{run}, i);
      by_reading(reading, [&](auto way) {
        for (int64_t c = 0; c < job.channels; ++c)
          put(job, n, span, to, c, i, where_read(blocks, reading, i, values(way, c, i, weights)));
      });
    }
  }

  // The same of one tap, whose weight is 1: a copy.
  static void put_pixels(const SampleJob& job, int64_t n, const Span& span, const Target& to, const Places& from,
                         const Blocks& blocks) {
    for (int64_t c = 0; c < job.channels; ++c) {
      const R* const image = from.image ? from.image + n * from.batch + c * from.channel : nullptr;
      alignas(64) R row[strip_columns];
      const bool waits = projects(job);
      R* const out = waits ? row : to.at + c * to.channel;
      const Index column = waits ? 1 : to.column;
      if (image && blocks.adjacent)
        for (int i = 0; i < span.count; ++i) out[i * column] = image[from.first[i]];
      else
        for (int i = 0; i < span.count; ++i) out[i * column] = image && blocks.reads[i] ? image[from.first[i]] : R(0);
      for (int i = 0; waits && i < span.count; i += lanes) put(job, n, span, to, c, i, load(row + i));
    }
  }

  // Values of the channels of a block whose first pixel is entry i of taps, not all of them plain; `count` are wanted.
  // Those of pixels that are not are 0 if taps do not drop.
  static PYSTN_APART void put_odd(const SampleJob& job, const Target& to, const KnownTaps<0>& taps, int i, int count,
                                  const R* image, const int64_t* stride) {
    const Light<KnownTaps<0>> light{taps, i};
    const UsualWeights<0> from{taps};
    const auto put = [&](auto&& value_of) {
      for (int64_t c = 0; c < job.channels; ++c) {
        V x = value_of(image + c * job.input.channel);
        for (int l = 0; job.fill && l < lanes; ++l)
          if (taps.dark[i + l]) x[l] = R(job.fill[c]);
        store(x, to.at + c * to.channel, to.column, count);
      }
    };
    if (light.none()) return put([](const R*) { return V{}; });
    const FlatWeights<false> weights(from, i);
    if (taps.drops) {
      const OddTaps<KnownTaps<0>> odd(taps, stride, i);
      return put([&](const R* at) { return value(odd.at(at), from, weights.weight); });
    }
    const bool any = light.any();
    put([&](const R* at) {
      // Rows of taps from the first pixel on stand for those of others: where any is plain, there is room for them.
      V x{};
      if (any) x = value(Plain<KnownTaps<0>>{at, taps, stride, i}, from, weights.weight);
      for (int l = 0; l < lanes; ++l) x[l] = taps.plain[i + l] ? x[l] : R(0);
      return x;
    });
  }

  // The same of whole blocks of plain pixels: those of entries i to `end`, of which a last one of fewer pixels is taken
  // with some before it, or if there are none is as long as its row. Little is known here but what the loop needs, and
  // that stays in registers.
  static PYSTN_APART void put_plain(const KnownTaps<0>& taps, int i, int end, const R* image, Index image_channel,
                                    const int64_t* strides, const Target& to, int64_t channels) {
    const UsualWeights<0> from{taps};
    int64_t stride[ND];
    for (int a = 0; a < ND; ++a) stride[a] = strides[a];
    const Index out_channel = to.channel, column = to.column;
    R* out = to.at;
    for (const int begin = i; i < end; i += lanes, out += lanes * column) {
      if (i + lanes > end && end - lanes >= begin) {
        out -= (i + lanes - end) * column;
        i = end - lanes;
      }
      const FlatWeights<false> weights(from, i);
      const R* at = image;
      R* put = out;
      for (int64_t c = 0; c < channels; ++c, at += image_channel, put += out_channel)
        store(value(Plain<KnownTaps<0>>{at, taps, stride, i}, from, weights.weight), put, column, end - i);
    }
  }

  // output = V(U), for those of `count` pixels from an entry on that are plain or dark, and for the others if taps
  // outside drop.
  static PYSTN_HD void put_values(const SampleJob& job, int count, int entry, const Target& to,
                                  const KnownTaps<0>& taps, const R* image, const int64_t* stride) {
    if (taps.all) return put_plain(taps, entry, entry + count, image, job.input.channel, stride, to, job.channels);
    for (int i = 0; i < count;) {
      const int end = end_of_plain(taps, entry, i, count);
      if (end > i) {
        const int last = end < count ? end : count;
        put_plain(taps, entry + i, entry + last, image, job.input.channel, stride, to.from(0, i), job.channels);
        i = end;
      } else {
        put_odd(job, to.from(0, i), taps, entry + i, count - i, image, stride);
        i += lanes;
      }
    }
  }

  // The same of a projection, whose samples meet others on their way.
  static void project(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    Run<R, ND> run;
    Blocks blocks;
    Places places(job.input);
    for_each_unstreamed(job, n, chunk % chunks_per_image(job), [&](const Span& strip, const Target& target) {
      for_each_run_to(job, strip, target, [&](const Span& span, const Target& to) {
        run.template place<0>(job, n, span, lanes);
        blocks.set(run, run.placed);
        places.set(run, run.placed, blocks);
        if constexpr (S == 1)
          put_pixels(job, n, span, to, places, blocks);
        else
          put_blocks<false>(job, n, span, to, run, blocks, ~Bits(0), BlockValues{run, places, blocks, n});
      });
    });
  }

  // The values of a block, whatever it reads.
  struct BlockValues {
    const Run<R, ND>& run;
    const Places& places;
    const Blocks& blocks;
    int64_t n;

    template <class Way, class Products>
    PYSTN_HD V operator()(Way, int64_t c, int i, const Products& weights) const {
      return value(typename Way::Cursor(places, blocks, i, n, c), Weights{run}, weights.weight);
    }
  };

#if defined(__AVX2__) && !defined(__AVX512F__)
  // Those of some pixels of a run, if they are among the others and have windows; returns the bits of what is left.
  static PYSTN_APART Bits put_windows(const SampleJob& job, int64_t n, int count, int entry, const Target& to,
                                      const KnownTaps<0>& taps, Bits others) {
    using Windows = typename Taps::Windows;
    const R* const image = static_cast<const R*>(job.input.data) + n * job.input.batch;
    const UsualWeights<0> from{taps};
    for (int i = 0; i < count; i += lanes) {
      const unsigned mine = unsigned(others >> i & first_bits(lanes));
      if (!mine) continue;
      Windows windows;
      const unsigned found = mine & unsigned(windows.place(job, Taps::template load<Flags>(taps.cell[0] + entry + i),
                                                           Taps::template load<Flags>(taps.cell[1] + entry + i)));
      unsigned none = 0;  // whose taps of weight 0 may be no numbers
      for (int64_t c = 0; found && c < job.channels; ++c) {
        const typename Windows::At at{image + c * job.input.channel, windows, entry + i, 0};
        const V x = Taps::template gather<0, ND>(at, from).value;
        for (unsigned left = found; left; left &= left - 1) {
          const int l = lowest(left);
          none |= unsigned(x[l] != x[l]) << l;
          to.at[(i + l) * to.column + c * to.channel] = x[l];
        }
      }
      others &= ~(Bits(found & ~none) << i);
    }
    return others;
  }
#endif

  // Blocks of a run with pixels that are neither plain nor dark.
  static PYSTN_APART void put_others(const SampleJob& job, int64_t n, const Span& span, int entry, const Target& to,
                                     KnownTaps<0>& taps, Blocks& blocks, Places& places) {
    Bits others = taps.other_bits(entry, span.count);
#if defined(__AVX2__) && !defined(__AVX512F__)
    if constexpr (Taps::has_windows)
      if (others && taps.has_cells() && moves_taps<S>(job))
        others = put_windows(job, n, span.count, entry, to, taps, others);
#endif
    if (!others) return;
    Run<R, ND>& run = taps.run;
    run.template place<0>(job, n, span, lanes);
    blocks.set(run, run.placed);
    places.set(run, run.placed, blocks);
    put_blocks<false>(job, n, span, to, run, blocks, others, BlockValues{run, places, blocks, n});
  }

  // Whether a sample is no number in any channel.
  static bool has_none(const SampleJob& job, const Target& to, int i) {
    bool any = false;
    for (int64_t c = 0; c < job.channels; ++c) {
      const R value = to.at[i * to.column + c * to.channel];
      any = any || value != value;
    }
    return any;
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    if constexpr (ND == 3 && !has_many_taps)
      if (projects(job)) return project(job, chunk);
    const int64_t n = chunk / chunks_per_image(job);
    const R* const image = static_cast<const R*>(job.input.data) + n * job.input.batch;
    const int64_t* const stride = job.input.axis;
    KnownTaps<0> taps(job, 0x7fffffff, true);
    Blocks blocks;
    Places places(job.input);
    for_each_written(job, n, chunk % chunks_per_image(job), [&](const Span& strip, const Target& to) PYSTN_APART {
      const int rows = strip.rows < together ? strip.rows : together;
      const int columns = strip.count < KnownTaps<0>::capacity ? strip.count : KnownTaps<0>::capacity;
      for (int r = 0; r < strip.rows; r += rows)
        for (int i = 0; i < strip.count; i += columns) {
          const Span some{strip.outer, strip.row + r, strip.column + i, strip.rows - r < rows ? strip.rows - r : rows,
                          strip.count - i < columns ? strip.count - i : columns};
          put_strip(job, n, some, to.from(r, i), taps, blocks, places, image, stride);
        }
    });
  }

  // Asks for the taps to come, where these are what takes the time.
  template <class Known>
  static PYSTN_HD void prefetch(const SampleJob& job, const Span& run, int left, int entry, const Known& taps,
                                const ImageArray& image, int64_t n, int64_t channel0, int64_t channels) {
    if constexpr (S <= 2 && ND == 2)
      prefetch_ahead(job, run, left, entry, taps,
                     static_cast<const R*>(image.data) + n * image.batch + channel0 * image.channel, image.channel,
                     channels, image.axis[1]);
  }

  // And for the samples to the right of a strip, if channels are few: across several rows processors do not foresee
  // them.
  static PYSTN_HD void prefetch_samples(const SampleJob& job, int64_t n, const Span& strip) {
    if (job.channels > streamed || column_stride(job, job.output.axis) != 1) return;
    const R* from = samples_of(job, job.output, n, strip);
    for (int64_t c = 0; c < job.channels; ++c, from += job.output.channel)
      prefetch_next(from, strip.rows, row_stride(job, job.output.axis), strip.count);
  }

  static PYSTN_HD void put_strip(const SampleJob& job, int64_t n, const Span& strip, const Target& to,
                                 KnownTaps<0>& taps, Blocks& blocks, Places& places, const R* image,
                                 const int64_t* stride) {
    taps.place(job, n, strip, lanes);
    for_each_piece(strip, [&](const Span& run, int r, int i) {
      const int entry = r * taps.width + i;
      prefetch(job, run, strip.count - i, entry, taps, job.input, n, 0, job.channels);
      put_values(job, run.count, entry, to.from(r, i), taps, image, stride);
    });
    if constexpr (S > 2)
      if (taps.doubtful && taps.withdraw(strip.count, [&](int i) { return has_none(job, to, i); }))
        put_values(job, strip.count, 0, to, taps, image, stride);
    if (taps.all || taps.drops) return;
    Flag other[strip_columns];
    for_each_piece(strip, [&](const Span& run, int r, int i) {
      const int entry = r * taps.width + i;
      if constexpr (!has_many_taps)
        if (!job.fill) return put_others(job, n, run, entry, to.from(r, i), taps, blocks, places);
      const Span others = taps.others(run, entry, other);
      if (others.count <= 0) return;
      const int64_t begin = others.column - run.column;
      const Target there = to.from(r, i + begin);
      sample_others<S>(job, n, others, other + begin, taps.run, there.at, there.column, there.channel);
    });
  }

  // output = V(Z) + the derivative of V(U) along d_grid and the parameters' tangents
  static void jvp(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    bool turns = has_steps(job);
    for (int a = 0; a < ND; ++a) turns = turns || job.d_kernel[a];
    Run<R, ND> run;
    Blocks blocks;
    Places places(job.input), tangents(job.d_input);
    for_each_written(job, n, chunk % chunks_per_image(job), [&](const Span& strip, const Target& target) PYSTN_APART {
      for_each_run_to(job, strip, target, [&](const Span& span, const Target& to) {
        run.template place<1>(job, n, span, lanes);
        blocks.set(run, run.placed);
        if (job.d_input.data) tangents.set(run, run.placed, blocks);
        run.turn(job, n, span);
        if (turns) places.set(run, run.placed, blocks);
        put_blocks<true>(job, n, span, to, run, blocks, ~Bits(0), [&](auto way, int64_t c, int i, const auto& weights) {
          using Cursor = typename decltype(way)::Cursor;
          V d = {};
          if (job.d_input.data) d = value(Cursor(tangents, blocks, i, n, c), Weights{run}, weights.weight);
          if (!turns) return d;
          const Cursor at(places, blocks, i, n, c);
          if constexpr (flat) {
            d += value(at, Weights{run}, weights.along);
          } else {
            const Jet<V, ND> moved = Taps::template gather<1, ND>(at, Weights{run});
            for (int a = 0; a < ND; ++a) d += moved.slope[a];
          }
          return d;
        });
      });
    });
  }

  // Rows of strips are placed in whole blocks, and so that each holds whole turns of the scatter.
  static constexpr int apart = StripScatter<R, ND>::apart, block = S == 2 && lanes < apart ? apart : lanes;

  // Calls usual(strip or run) for what has usual taps of a strip, and other(span) for other runs.
  template <int order, class Usual, class Other>
  static PYSTN_HD void for_each_usual(const SampleJob& job, int64_t n, const Span& strip, KnownTaps<order>& taps,
                                      bool may_be, Usual&& usual, Other&& other) {
    if (may_be && strip.rows > 1 && strip.rows <= together && taps.place_all_or_none(job, n, strip, block))
      return usual(strip);
    for_each_run(job, strip, [&](const Span& span) {
      if (may_be && taps.place_all_or_none(job, n, span, block)) return usual(span);
      other(span);
    });
  }

  // Calls body(row, its first entry of taps) for the rows of what is placed.
  template <int order, class Body>
  static PYSTN_HD void for_each_row(const Span& strip, const KnownTaps<order>& taps, Body&& body) {
    for (int r = 0; r < strip.rows; ++r) body(KnownTaps<order>::row_of(strip, r), r * taps.width);
  }

  // grad_grid_a = sum_c output_c slope_ca, as slopes(way, n, c, i, weights, slope) has them for a block, over the
  // batch too if it shares a grid; place(span) comes before.
  template <int order, class Place, class Slopes>
  static PYSTN_HD void put_slopes(const SampleJob& job, int64_t chunk, Run<R, ND>& run, Blocks& blocks, Place&& place,
                                  Slopes&& slopes) {
    const int64_t n0 = chunk / chunks_per_image(job);
    const int64_t n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    alignas(64) R sums[ND][strip_columns] = {};
    const int64_t* const stride = job.input.axis;
    KnownTaps<1> usual(job);
    const bool may_be_usual = order == 1 && !chooses(job);
    for_each_strip(job, chunk % chunks_per_image(job), [&](const Span& strip) {
      for_each_usual(
          job, n0, strip, usual, may_be_usual,
          [&](const Span& some) {
            prefetch_samples(job, n0, some);
            for_each_row(some, usual, [&](const Span& span, int first) {
              prefetch(job, span, span.count, first, usual, job.input, n0, 0, job.channels);
              sum_slopes(job, n0, n1, span, usual, first, stride, sums);
              put_grad_grid<R, ND>(job, n0, chunk, span, UsualWeights<1>{usual, first}, sums);
            });
          },
          [&](const Span& span) {
            run.template place<order>(job, n0, span, lanes);
            blocks.set(run, run.placed);
            place(n0, span);
            sum_slopes(job, n0, n1, span, run, blocks, slopes, sums);
            put_grad_grid<R, ND>(job, n0, chunk, span, run, sums);
          });
    });
  }

  // The sums of one run, over the samples n0 <= n < n1.
  template <class Slopes>
  static PYSTN_APART void sum_slopes(const SampleJob& job, int64_t n0, int64_t n1, const Span& span,
                                     const Run<R, ND>& run, const Blocks& blocks, Slopes&& slopes,
                                     R (&sums)[ND][strip_columns]) {
    const Index column = column_stride(job, job.output.axis);
    for (int i = 0; i < span.count; i += lanes) {
      V sum[ND] = {};
      const Reading reading = blocks.reading(i);
      const FlatWeights<true> weights(Weights{run}, i);
      if (reading != Reading::nothing)
        by_reading(reading, [&](auto way) {
          for (int64_t n = n0; n < n1; ++n) {
            const R* const cotangent = samples_of(job, job.output, n, span) + i * column;
            for (int64_t c = 0; c < job.channels; ++c) {
              const V g = load(cotangent + c * job.output.channel, column, span.count - i);
              Mask part;
              if (chooses(job) && !any_chosen(job, n, span, c, i, part)) continue;
              V slope[ND];
              slopes(way, n, c, i, weights, slope);
              for (int a = 0; a < ND; ++a) {
                const V term = g * slope[a];
                sum[a] += chooses(job) ? (part ? term : V{}) : term;
              }
            }
          }
        });
      for (int a = 0; a < ND; ++a) {
        sum[a] = where_read(blocks, reading, i, sum[a]);
        __builtin_memcpy(sums[a] + i, &sum[a], sizeof sum[a]);
      }
    }
  }

  // The slopes of samples of an image.
  struct ImageSlopes {
    const Run<R, ND>& run;
    const Blocks& blocks;
    const Places& places;

    template <class Way>
    PYSTN_HD void operator()(Way, int64_t n, int64_t c, int i, const FlatWeights<true>& weights, V (&slope)[ND]) const {
      slopes(typename Way::Cursor(places, blocks, i, n, c), Weights{run}, weights, slope);
    }
  };

  // The same sums for the taps of usual kernels are made from these: cotangents of a row of pixels, of images n0 to n1.
  struct SlopedRow {
    const R *image, *cotangent;
    Index image_batch, image_channel, batch, channel, column;
    int64_t images, channels;

    SlopedRow(const SampleJob& job, int64_t n0, int64_t n1, const Span& span)
        : image(static_cast<const R*>(job.input.data) + n0 * job.input.batch),
          cotangent(samples_of(job, job.output, n0, span)),
          image_batch(job.input.batch),
          image_channel(job.input.channel),
          batch(job.output.batch),
          channel(job.output.channel),
          column(column_stride(job, job.output.axis)),
          images(n1 - n0),
          channels(job.channels) {}

    // Sums g slope over the channels of the images, for up to `count` pixels from pixel i on, whose slopes are
    // slopes_of(image, slope).
    template <class Slopes>
    PYSTN_HD void add_up(int i, int count, V (&sum)[ND], Slopes&& slopes_of) const {
      for (int64_t n = 0; n < images; ++n)
        for (int64_t c = 0; c < channels; ++c) {
          V slope[ND];
          slopes_of(image + n * image_batch + c * image_channel, slope);
          const V g = load(cotangent + n * batch + c * channel + i * column, column, count);
          for (int a = 0; a < ND; ++a) sum[a] += g * slope[a];
        }
    }
  };

  // From entry `first` of the taps on, of pixels that are plain, dark or masked.
  static void sum_slopes(const SampleJob& job, int64_t n0, int64_t n1, const Span& span, const KnownTaps<1>& taps,
                         int first, const int64_t* stride, R (&sums)[ND][strip_columns]) {
    const SlopedRow row(job, n0, n1, span);
    for (int i = 0; i < span.count;) {
      const int end = end_of_plain(taps, first, i, span.count);
      if (end > i) {
        sum_plain_slopes(row, taps, first, i, span.count < end ? span.count : end, stride, sums);
        i = end;
      } else {
        sum_odd_slopes(row, taps, first, i, span.count - i, stride, sums);
        i += lanes;
      }
    }
  }

  // Of blocks of plain pixels next to each other: little is known here but what the loop needs, as in put_plain.
  static PYSTN_APART void sum_plain_slopes(const SlopedRow& row, const KnownTaps<1>& taps, int first, int i, int end,
                                           const int64_t* strides, R (&sums)[ND][strip_columns]) {
    const UsualWeights<1> from{taps};
    int64_t stride[ND];
    for (int a = 0; a < ND; ++a) stride[a] = strides[a];
    for (; i < end; i += lanes) {
      const FlatWeights<true> weights(from, first + i);
      V sum[ND] = {};
      row.add_up(i, end - i, sum, [&](const R* image, V(&slope)[ND]) {
        slopes(Plain<KnownTaps<1>>{image, taps, stride, first + i}, from, weights, slope);
      });
      for (int a = 0; a < ND; ++a) __builtin_memcpy(sums[a] + i, &sum[a], sizeof sum[a]);
    }
  }

  // Of one block, of `count` pixels.
  static PYSTN_APART void sum_odd_slopes(const SlopedRow& row, const KnownTaps<1>& taps, int first, int i, int count,
                                         const int64_t* stride, R (&sums)[ND][strip_columns]) {
    V sum[ND] = {};
    if (!Light<KnownTaps<1>>{taps, first + i}.none()) {
      const UsualWeights<1> from{taps};
      const FlatWeights<true> weights(from, first + i);
      const OddTaps<KnownTaps<1>> odd(taps, stride, first + i);
      row.add_up(i, count, sum, [&](const R* image, V(&slope)[ND]) { slopes(odd.at(image), from, weights, slope); });
      // Pixels that read nothing have no slopes, whatever their cotangents.
      const Mask reading = __builtin_convertvector(odd.reading() != 0, Mask);
      for (int a = 0; a < ND; ++a) sum[a] = reading ? sum[a] : V{};
    }
    for (int a = 0; a < ND; ++a) __builtin_memcpy(sums[a] + i, &sum[a], sizeof sum[a]);
  }

  static void vjp_grid(const SampleJob& job, int64_t chunk) {
    Run<R, ND> run;
    Blocks blocks;
    Places places(job.input);
    put_slopes<1>(
        job, chunk, run, blocks, [&](int64_t, const Span&) { places.set(run, run.placed, blocks); },
        ImageSlopes{run, blocks, places});
  }

  // grad_grid_a = sum_c output_c (V_a(Z_c) + sum_b d_grid_b V_ab(U_c))
  static void vjp2_grid(const SampleJob& job, int64_t chunk) {
    Run<R, ND> run;
    Blocks blocks;
    Places places(job.input), tangents(job.d_input);
    alignas(64) R step[ND][strip_columns];
    put_slopes<2>(
        job, chunk, run, blocks,
        [&](int64_t n, const Span& span) {
          if (job.d_input.data) tangents.set(run, run.placed, blocks);
          if (!job.d_grid.data) return;
          places.set(run, run.placed, blocks);
          run.steps(job, n, span, step);
        },
        [&](auto way, int64_t n, int64_t c, int i, const auto&, V(&slope)[ND]) {
          using Cursor = typename decltype(way)::Cursor;
          for (int a = 0; a < ND; ++a) slope[a] = V{};
          if (job.d_input.data) {
            const Jet<V, ND> moved = Taps::template gather<1, ND>(Cursor(tangents, blocks, i, n, c), Weights{run});
            for (int a = 0; a < ND; ++a) slope[a] = moved.slope[a];
          }
          if (!job.d_grid.data) return;
          const Jet<V, ND> curved = Taps::template gather<2, ND>(Cursor(places, blocks, i, n, c), Weights{run});
          for (int a = 0; a < ND; ++a)
            for (int b = 0; b < ND; ++b) slope[a] += load(step[b] + i) * curved.curve[a][b];
        });
  }

  // The weights and slopes of a row of taps of one pixel, those on the first axis.
  struct RowWeights {
    alignas(64) R w[strip_columns][S], dw[strip_columns][S];

    template <bool slopes, class From>
    void set(const From& from, int count) {
      for (int i = 0; i < count; ++i)
        for (int k = 0; k < S; ++k) w[i][k] = from.w(0, k)[i];
      if constexpr (slopes)
        for (int i = 0; i < count; ++i)
          for (int k = 0; k < S; ++k) dw[i][k] = from.dw(0, k)[i];
    }
  };

  // What the scatter makes on its way.
  struct Scratch {
    alignas(64) R value[together * strip_columns];
    RowWeights row;
    StripScatter<R, ND> terms;  // of linear
  };

  // Where the taps of a run are and what they weigh, for the scatter: any,
  struct Spots : Weights {
    const Places& places;
    const Blocks& blocks;

    Spots(const Run<R, ND>& run, const Places& places, const Blocks& blocks)
        : Weights{run}, places(places), blocks(blocks) {}
    PYSTN_HD Index stride(int a) const { return places.stride[a]; }
    PYSTN_HD Index first(int i) const { return places.first[i]; }
    PYSTN_HD bool adjacent(int i) const { return blocks.adjacent || blocks.neighbours[i]; }
    PYSTN_HD bool reads(int i) const { return blocks.reads[i]; }
    PYSTN_HD bool inside(int a, int k, int i) const { return blocks.inside[a][k][i]; }
    // From a row's first tap, which `first` would have.
    PYSTN_HD Index along(int a, int k, int i) const {
      return places.along[a][k][i] - (a == 0 ? places.first[i] : k * places.stride[a]);
    }
  };

  // or those of usual kernels.
  template <int order>
  struct UsualSpots : UsualWeights<order> {
    using UsualWeights<order>::taps;
    using UsualWeights<order>::entry;
    const int64_t* strides;

    UsualSpots(const KnownTaps<order>& taps, int entry, const int64_t* strides)
        : UsualWeights<order>{taps, entry}, strides(strides) {}
    PYSTN_HD Index stride(int a) const { return strides[a]; }
    PYSTN_HD Index first(int i) const { return taps.first[entry + i]; }
    PYSTN_HD bool adjacent(int i) const { return taps.plain[entry + i]; }
    PYSTN_HD bool reads(int i) const { return !taps.dark[entry + i]; }
    PYSTN_HD bool inside(int a, int k, int i) const { return taps.reads(a, k, entry + i); }
    PYSTN_HD Index along(int a, int k, int) const { return a == 0 ? k * strides[0] : 0; }
  };

  // Neighbours among the pixels, which mostly add to the same elements, are taken far apart, so that
  // none waits for the one before. An element receives its terms in this order whether all taps are in
  // a task's part or not.
  //
  // Adds value * w + sum_a slope_a * w_a to the taps of a run on the first L axes, row of taps by row.
  template <bool slopes, int L, class At>
  static void scatter(R* to, const At& spots, const RowWeights& row, int count, const R* value,
                      const R (*slope)[strip_columns], int (&tap)[ND]) {
    if constexpr (L > 1) {
      constexpr int a = L - 1;
      alignas(64) R next[strip_columns], inner[slopes ? a : 1][strip_columns];
      for (int k = 0; k < S; ++k) {
        const R* const w = spots.w(a, k);
        if constexpr (slopes) {
          const R* const dw = spots.dw(a, k);
          for (int i = 0; i < count; ++i) next[i] = value[i] * w[i] + slope[a][i] * dw[i];
          for (int b = 0; b < a; ++b)
            for (int i = 0; i < count; ++i) inner[b][i] = slope[b][i] * w[i];
        } else {
          for (int i = 0; i < count; ++i) next[i] = value[i] * w[i];
        }
        tap[a] = k;
        scatter<slopes, L - 1>(to + k * spots.stride(a), spots, row, count, next, inner, tap);
      }
    } else {
      constexpr int turns = S == 1 ? 1 : apart;  // one after the other, as add_pixels does
      for (int j = 0; j < turns && j < count; ++j)
        for (int i = j; i < count; i += turns) {
          if (spots.adjacent(i)) {
            RowOf<R, S>::template add<slopes>(to + spots.first(i), row.w[i], value[i], row.dw[i],
                                              slopes ? slope[0][i] : R(0));
          } else if (spots.reads(i)) {
            R terms[S] = {};
            RowOf<R, S>::template add<slopes>(terms, row.w[i], value[i], row.dw[i], slopes ? slope[0][i] : R(0));
            scatter_one_by_one(to, spots, i, terms, tap);
          }
        }
    }
  }

  // The same from the slowest axis on, for channel c; of a projection that chose, for the samples chosen.
  template <bool slopes>
  static void scatter(const SampleJob& job, int64_t n, int64_t c, const Span& span, R* image, const Places& places,
                      const Blocks& blocks, const Run<R, ND>& run, const RowWeights& row, const R* value,
                      const R (*slope)[strip_columns]) {
    const Blocks* taken = &blocks;
    Blocks some;
    if (chooses(job)) {
      some = blocks;
      if (!some.keep(Chosen(job, n, span, c), span.count)) return;
      taken = &some;
    }
    int tap[ND] = {};
    const Spots spots(run, places, *taken);
    scatter<slopes, ND>(image + c * job.grad_input.channel, spots, row, span.count, value, slope, tap);
  }

  // The same for one pixel, some of whose taps are not where the others say.
  template <class At>
  static void scatter_one_by_one(R* to, const At& spots, int i, const R (&terms)[S], const int (&tap)[ND]) {
    Index offset = spots.first(i);
    for (int a = 1; a < ND; ++a) {
      if (!spots.inside(a, tap[a], i)) return;
      offset += spots.along(a, tap[a], i);
    }
    for (int k = 0; k < S; ++k)
      if (spots.inside(0, k, i)) to[offset + spots.along(0, k, i)] += terms[k];
  }

  // The same for the channels of a part, of usual taps.
  template <int order>
  static PYSTN_APART void scatter_usual(const SampleJob& job, const Part& part, int64_t n, const Span& strip, R* image,
                                        const KnownTaps<order>& taps, const int64_t* stride, Scratch& scratch) {
    for_each_row(strip, taps, [&](const Span& span, int first) {
      prefetch(job, span, span.count, first, taps, job.grad_input, part.n0, part.channel0,
               part.channel1 - part.channel0);
    });
    if constexpr (S == 2) {
      if (!scratch.terms.place(taps, strip.rows * taps.width, stride)) return;
      for (int64_t c = part.channel0; c < part.channel1; ++c) {
        for_each_row(strip, taps, [&](const Span& span, int first) {
          load_samples(job, job.output, n, c, span, scratch.value + first);
          for (int i = span.count; i < taps.width; ++i) scratch.value[first + i] = R(0);
        });
        scratch.terms.add(taps, scratch.value, image + c * job.grad_input.channel);
      }
    } else {
      for_each_row(strip, taps, [&](const Span& span, int first) {
        scatter_row(job, part, n, span, image, taps, first, stride, scratch);
      });
    }
  }

  // The same of a row, of another number of taps.
  template <int order>
  static PYSTN_HD void scatter_row(const SampleJob& job, const Part& part, int64_t n, const Span& span, R* image,
                                   const KnownTaps<order>& taps, int first, const int64_t* stride, Scratch& scratch) {
    const UsualSpots<order> spots(taps, first, stride);
    if constexpr (S > 1) scratch.row.template set<false>(spots, span.count);
    for (int64_t c = part.channel0; c < part.channel1; ++c) {
      const R* const values = samples_in_row(job, job.output, n, c, span, scratch.value);
      R* const to = image + c * job.grad_input.channel;
      if constexpr (S == 1) {
        add_pixels(to, taps.first + first, taps.plain + first, taps.all, span.count, values);
      } else {
        const R(*const no_slope)[strip_columns] = nullptr;
        int tap[ND] = {};
        scatter<false, ND>(to, spots, scratch.row, span.count, values, no_slope, tap);
      }
    }
  }

  // Of one tap, whose weight is 1, of pixels that are plain: all others are outside. Neighbours seldom add to the same
  // element, and two offsets are one load.
  static PYSTN_APART void add_pixels(R* __restrict to, const int* __restrict first, const Flag* __restrict plain,
                                     bool all, int count, const R* __restrict value) {
    int i = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (; all && i + 2 <= count; i += 2) {
      int64_t two;
      __builtin_memcpy(&two, first + i, sizeof two);
      to[int(two)] += value[i];
      to[two >> 32] += value[i + 1];
    }
#endif
    for (; i < count; ++i)
      if (all || plain[i]) to[first[i]] += value[i];
  }

  // Adds the terms of a part's runs: terms(n, c, span, value, slope) sets those of a channel, and returns
  // where the values are, after place(n, span).
  template <bool slopes, class Place, class Terms>
  static PYSTN_HD void add_terms(const SampleJob& job, int64_t task, Run<R, ND>& run, Place&& place, Terms&& terms) {
    const Part part(job, task);
    part.clear(job);
    R* const image = static_cast<R*>(job.grad_input.data) + part.n0 * job.grad_input.batch;
    Blocks blocks;
    Places places(job.grad_input);
    alignas(64) R slope[slopes ? ND : 1][strip_columns];
    Scratch scratch;
    const int64_t* const stride = job.grad_input.axis;
    KnownTaps<0> usual(job);
    usual.are_of(job.grad_input, part.low, part.high);
    const bool may_be_usual = !chooses(job);
    const auto add = [&](int64_t n, const Span& span) {
      General::template place_in_part<slopes ? 1 : 0>(job, part, n, span, run, 1);
      blocks.set(run, span.count);
      if (blocks.nothing) return;
      places.set(run, span.count, blocks);
      scratch.row.template set<slopes>(Weights{run}, span.count);
      place(n, span);
      for (int64_t c = part.channel0; c < part.channel1; ++c) {
        const R* const values = terms(n, c, span, scratch.value, slope);
        scatter<slopes>(job, n, c, span, image, places, blocks, run, scratch.row, values, slope);
      }
    };
    General::for_each_strip_of(job, part, [&](int64_t n, const Span& strip, int64_t) {
      const auto other = [&](const Span& span) { add(n, span); };
      if constexpr (slopes)
        for_each_run(job, strip, other);
      else
        for_each_usual(
            job, n, strip, usual, may_be_usual,
            [&](const Span& some) {
              prefetch_samples(job, n, some);
              scatter_usual(job, part, n, some, image, usual, stride, scratch);
            },
            other);
    });
  }

  static void load_samples(const SampleJob& job, const SampleArray& samples, int64_t n, int64_t c, const Span& span,
                           R* to) {
    load_row<0>(samples_of(job, samples, n, span) + c * samples.channel, column_stride(job, samples.axis), span.count,
                to);
  }

  // The samples of a run: where they are, if they are next to each other, else a copy.
  static const R* samples_in_row(const SampleJob& job, const SampleArray& samples, int64_t n, int64_t c,
                                 const Span& span, R* copy) {
    if (column_stride(job, samples.axis) == 1) return samples_of(job, samples, n, span) + c * samples.channel;
    load_samples(job, samples, n, c, span, copy);
    return copy;
  }

  // grad_input += output w
  static void vjp_input(const SampleJob& job, int64_t task) {
    Run<R, ND> run;
    add_terms<false>(
        job, task, run, [](int64_t, const Span&) {},
        [&](int64_t n, int64_t c, const Span& span, R* value, auto&) {
          return samples_in_row(job, job.output, n, c, span, value);
        });
  }

  // Both gradients in one pass, where a task owns all of an image's and each grid has one image.
  static void vjp(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear(job);
    R* const image = static_cast<R*>(job.grad_input.data) + part.n0 * job.grad_input.batch;
    Run<R, ND> run;
    Blocks blocks;
    Places places(job.input);  // those of the gradient are the same
    Scratch scratch;
    alignas(64) R sums[ND][strip_columns];
    const int64_t* const stride = job.input.axis;
    KnownTaps<1> usual(job);
    const bool may_be_usual = !chooses(job);
    const auto usually = [&](int64_t n, int64_t chunk, const Span& some) {
      prefetch_samples(job, n, some);
      for_each_row(some, usual, [&](const Span& span, int first) {
        prefetch(job, span, span.count, first, usual, job.input, n, 0, job.channels);
        sum_slopes(job, n, n + 1, span, usual, first, stride, sums);
        put_grad_grid<R, ND>(job, n, chunk, span, UsualWeights<1>{usual, first}, sums);
      });
      scatter_usual(job, part, n, some, image, usual, stride, scratch);
    };
    const auto generally = [&](int64_t n, int64_t chunk, const Span& span) {
      run.template place<1>(job, n, span, lanes);
      blocks.set(run, run.placed);
      places.set(run, run.placed, blocks);
      sum_slopes(job, n, n + 1, span, run, blocks, ImageSlopes{run, blocks, places}, sums);
      put_grad_grid<R, ND>(job, n, chunk, span, run, sums);
      if (blocks.nothing) return;
      scratch.row.template set<false>(Weights{run}, span.count);
      const R(*const no_slope)[strip_columns] = nullptr;
      for (int64_t c = 0; c < job.channels; ++c) {
        const R* const values = samples_in_row(job, job.output, n, c, span, scratch.value);
        scatter<false>(job, n, c, span, image, places, blocks, run, scratch.row, values, no_slope);
      }
    };
    General::for_each_strip_of(job, part, [&](int64_t n, const Span& strip, int64_t chunk) {
      for_each_usual(
          job, n, strip, usual, may_be_usual, [&](const Span& some) { usually(n, chunk, some); },
          [&](const Span& span) { generally(n, chunk, span); });
    });
  }

  // grad_input += output w + sum_a (values d_grid_a + gradient_a) w_a
  static void push(const SampleJob& job, int64_t task) {
    Run<R, ND> run;
    alignas(64) R step[ND][strip_columns], more[strip_columns];
    add_terms<true>(
        job, task, run,
        [&](int64_t n, const Span& span) {
          run.placed = span.count;
          if (job.values.data && job.d_grid.data) run.steps(job, n, span, step);
        },
        [&](int64_t n, int64_t c, const Span& span, R* value, R(&slope)[ND][strip_columns]) -> const R* {
          for (int i = 0; i < span.count; ++i) value[i] = R(0);
          if (job.output.data) load_samples(job, job.output, n, c, span, value);
          for (int a = 0; a < ND; ++a)
            for (int i = 0; i < span.count; ++i) slope[a][i] = R(0);
          if (job.values.data && job.d_grid.data) {
            load_samples(job, job.values, n, c, span, more);
            for (int a = 0; a < ND; ++a)
              for (int i = 0; i < span.count; ++i) slope[a][i] = step[a][i] == R(0) ? R(0) : more[i] * step[a][i];
          }
          if (!job.gradient.data) return value;
          for (int a = 0; a < ND; ++a) {
            const R* const factor = run.axis[a].factor;
            const R* const from =
                samples_of(job, job.gradient, n, span) + c * job.gradient.channel + a * job.gradient.component;
            load_row<0>(from, column_stride(job, job.gradient.axis), span.count, more);
            for (int i = 0; i < span.count; ++i) slope[a][i] += factor[i] == R(0) ? R(0) : factor[i] * more[i];
          }
          return value;
        });
  }
};

// Whether blocks can do what a job asks for, but for its kernels.
inline bool fits_blocks(Direction direction, const SampleJob& job) {
  if (job.components != 1 || job.d_fill || job.mask.data) return false;
  if (job.fill && (direction != Direction::forward || job.projected)) return false;
  const ImageArray* const images[] = {&job.input, &job.d_input, &job.grad_input};
  for (const ImageArray* image : images) {
    if (!image->data) continue;
    int64_t reach = 0;  // the largest offset
    for (int a = 0; a < job.ndim; ++a)
      reach += (job.size[a] - 1) * (image->axis[a] < 0 ? -image->axis[a] : image->axis[a]);
    if ((image->axis[0] != 1 && job.size[0] > 1) || reach >= int64_t(1) << 31) return false;
  }
  for (int a = 0; a < job.ndim; ++a)
    if (!is_narrow(job.full[a])) return false;
  return true;
}

}  // namespace pystn::PYSTN_LEVEL
#endif
