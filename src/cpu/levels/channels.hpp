// The sampler's second stage with channels in the lanes of vectors, for images whose channels lie next
// to each other: float32 or float64, of 16 bytes a pixel at least; 1, 2 or 4 taps on every axis. It is
// the loop of sampling.hpp over vectors instead of numbers, and gives the same bits, but for the
// gradient to the coordinates, whose sum over the channels is made in lanes, in an order of its own.
#pragma once

#if defined(__GNUC__)
#define PYSTN_CHANNELS 1

#include "sampling.hpp"
#include "stream.hpp"

namespace pystn::PYSTN_LEVEL {

#if defined(__AVX512F__)
constexpr int widest_channels = 64;
#elif defined(__AVX__)
constexpr int widest_channels = 32;
#else
constexpr int widest_channels = 16;
#endif

// A vector, or a number in its place.
template <class R, int bytes>
struct Channels {
  typedef R Vector __attribute__((vector_size(bytes)));
};

template <class V, class R>
PYSTN_HD V load_channels(const R* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
template <class V, class R>
PYSTN_HD void store_channels(R* to, const V& v) {
  __builtin_memcpy(to, &v, sizeof v);
}
// x in every lane, its sign too if it is 0.
template <class V, class R>
PYSTN_HD V in_all(R x) {
  return x - V{};
}

// Calls body(zero, c) for channels c < end: by the widest vectors, by vectors of 16 bytes, one by one.
template <class R, int bytes = widest_channels, class Body>
PYSTN_HD void across(int64_t c, int64_t end, const Body& body) {
  constexpr int count = bytes / int(sizeof(R));
  for (; c + count <= end; c += count) body(typename Channels<R, bytes>::Vector{}, c);
  if constexpr (bytes > 16)
    across<R, 16>(c, end, body);
  else
    for (; c < end; ++c) body(R(), c);
}

template <class R, int S, int ND>
struct ChannelSampler : Sampler<R, R, S, ND> {
  using General = Sampler<R, R, S, ND>;
  static constexpr bool flat = General::flat;
  template <bool slopes>
  using FlatTaps = typename General::template FlatTaps<slopes>;

  static const R* pixels_of(const ImageArray& image, int64_t n) {
    return static_cast<const R*>(image.data) + n * image.batch;
  }

  // The taps of a pixel that are in the image, axis by axis.
  template <bool slopes>
  struct AxisTaps {
    int count[ND];
    Index offset[ND][S];
    R w[ND][S], dw[slopes ? ND : 1][S];
    bool none;

    void place(const Run<R, ND>& run, int i, const int64_t* stride) {
      none = run.cut[i];
      for (int a = 0; a < ND; ++a) {
        const AxisTable<R>& table = run.axis[a];
        count[a] = 0;
        for (int k = 0; k < S; ++k) {
          const Index at = table.index_of(i, k);
          if (at < 0) continue;
          const int slot = count[a]++;
          offset[a][slot] = at * stride[a];
          w[a][slot] = table.w[table.entry(i, k)];
          if (slopes) dw[a][slot] = table.dw[table.entry(i, k)];
        }
        none = none || count[a] == 0;
      }
    }

    // Loops over the slower axes stay loops, for the sake of the code's size.
    template <int order, int L, class V>
    PYSTN_HD Jet<V, L> gather(const R* at) const {
      Jet<V, L> sum;
      const auto add = [&](int k) __attribute__((always_inline)) {
        Jet<V, L - 1> inner;
        if constexpr (L == 1)
          inner.value = load_channels<V>(at + offset[0][k]);
        else
          inner = gather<order, L - 1, V>(at + offset[L - 1][k]);
        sum.template add<order>(inner, in_all<V>(w[L - 1][k]), in_all<V>(order >= 1 ? dw[L - 1][k] : R(0)), V{});
      };
      if (L == 1 && count[0] == S)
        for (int k = 0; k < S; ++k) add(k);
      else
        for (int k = 0; k < count[L - 1]; ++k) add(k);
      return sum;
    }

    template <int L, class V>
    PYSTN_HD void scatter(R* to, const V& value) const {
      if constexpr (L == 0)
        store_channels(to, load_channels<V>(to) + value);
      else
        for (int k = 0; k < count[L - 1]; ++k) scatter<L - 1>(to + offset[L - 1][k], value * in_all<V>(w[L - 1][k]));
    }
  };

  // Sum over the taps with one weight each.
  template <class V, bool slopes>
  static PYSTN_HD V gather_flat(const R* from, const FlatTaps<slopes>& taps, const R* weight) {
    V sum = in_all<V>(weight[0]) * load_channels<V>(from + taps.offset[0]);
    if (taps.count == taps.capacity)
      for (int k = 1; k < taps.capacity; ++k) sum += in_all<V>(weight[k]) * load_channels<V>(from + taps.offset[k]);
    else
      for (int k = 1; k < taps.count; ++k) sum += in_all<V>(weight[k]) * load_channels<V>(from + taps.offset[k]);
    return sum;
  }

  // What a pixel reads, whichever way its kernel sums.
  template <bool slopes>
  struct Taps {
    FlatTaps<slopes> products;
    AxisTaps<slopes> axes;
    bool none;

    void place(const Run<R, ND>& run, int i, const int64_t* stride) {
      if constexpr (flat) {
        products.place(run, i, stride);
        none = run.cut[i] || products.count == 0;
      } else {
        axes.place(run, i, stride);
        none = axes.none;
      }
    }

    template <class V>
    PYSTN_HD V value(const R* from) const {
      if (none) return V{};
      if constexpr (flat)
        return gather_flat<V>(from, products, products.weight);
      else
        return axes.template gather<0, ND, V>(from).value;
    }
  };

  // Asks for the taps of a pixel to come, where they are neighbours: of each row along x up to some lines.
  static PYSTN_HD void prefetch(const Run<R, ND>& run, int i, int count, const ImageArray& image, int64_t n) {
    if (i >= count) return;
    Index offset = n * image.batch;
    for (int a = 0; a < ND; ++a) {
      if (!run.axis[a].adjacent[i]) return;
      offset += run.axis[a].first[i] * image.axis[a];
    }
    constexpr int rows = power(S, ND - 1), lines = 8;
    const Index bytes = S * image.axis[0] * Index(sizeof(R));
    for (int row = 0; row < rows; ++row) {
      Index at = offset;
      for (int a = 1, rest = row; a < ND; ++a, rest /= S) at += rest % S * image.axis[a];
      const uintptr_t from = reinterpret_cast<uintptr_t>(image.data) + uintptr_t(at) * sizeof(R);
      for (Index line = 0; line < bytes && line < lines * line_bytes; line += line_bytes)
        __builtin_prefetch(reinterpret_cast<const char*>(from + uintptr_t(line)));
    }
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const R* const image = pixels_of(job.input, n);
    const Index column = column_stride(job, job.output.axis);
    Run<R, ND> run;
    Taps<false> taps;
    Stream<R, 1, 1, kept> stream(0, 0);
    const int together = streamed_pixels(job, column);
    General::template for_each_placed<0>(job, n, chunk % chunks_per_image(job), run, [&](const Span& span) {
      R* const output = static_cast<R*>(job.output.data) + General::place_of(job, job.output, n, span, 0);
      R* to = output;
      for (int i = 0; i < span.count; ++i, to += column) {
        if (together && i % together == 0) {
          R* const there = output + i * column;
          if (i > 0)
            stream.end(there - kept_of(job, together), 0, 0, 1, 1, kept_of(job, together), i == together, false);
          to = stream.begin(there);
        }
        taps.place(run, i, job.input.axis);
        prefetch(run, i + 4, span.count, job.input, n);
        across<R>(0, job.channels, [&](auto zero, int64_t c) __attribute__((always_inline)) {
          store_channels(to + c, taps.template value<decltype(zero)>(image + c));
        });
        if (!job.fill || (run.whole[i] && !run.cut[i])) continue;
        const R filled = run.cut[i] ? R(1) : run.outside(job, i, 0).value;
        for (int64_t c = 0; filled != R(0) && c < job.channels; ++c) to[c] += filled * R(job.fill[c]);
      }
      if (!together) return;
      const int start = (span.count - 1) / together * together;
      stream.end(output + start * column, 0, 0, 1, 1, kept_of(job, span.count - start), start == 0, true);
    });
    if (together) end_streams();
  }

  // Elements of an output that is streamed, kept on their way; how many pixels they are, or 0 if it is not.
  static constexpr int kept = 2048 / int(sizeof(R));
  static int kept_of(const SampleJob& job, int pixels) { return pixels * int(job.channels); }
  static int streamed_pixels(const SampleJob& job, Index column) {
    if (!job.streams || column != job.channels) return 0;
    for (int pixels = strip_columns; pixels > 0; pixels /= 2)
      if (pixels * job.channels <= kept) return kept_of(job, pixels) * sizeof(R) % line_bytes ? 0 : pixels;
    return 0;
  }

  static void jvp(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    bool turns = has_steps(job);
    for (int a = 0; a < ND; ++a) turns = turns || job.d_kernel[a];
    const R *const image = pixels_of(job.input, n), *const tangent = pixels_of(job.d_input, n);
    const Index column = column_stride(job, job.output.axis);
    Run<R, ND> run;
    Taps<true> taps;
    Taps<false> tangents;
    R along[FlatTaps<true>::capacity];  // weights of the derivative
    General::template for_each_placed<1>(job, n, chunk % chunks_per_image(job), run, [&](const Span& span) {
      R* to = static_cast<R*>(job.output.data) + General::place_of(job, job.output, n, span, 0);
      run.turn(job, n, span);
      for (int i = 0; i < span.count; ++i, to += column) {
        taps.place(run, i, job.input.axis);
        if (job.d_input.data) tangents.place(run, i, job.d_input.axis);
        for (int k = 0; flat && k < taps.products.count; ++k) {
          along[k] = R(0);
          for (int a = 0; a < ND; ++a) along[k] += taps.products.slope[a][k];
        }
        across<R>(0, job.channels, [&](auto zero, int64_t c) __attribute__((always_inline)) {
          using V = decltype(zero);
          V d = zero;
          if (job.d_input.data) d = tangents.template value<V>(tangent + c);
          if (turns && !taps.none) {
            if constexpr (flat) {
              d += gather_flat<V>(image + c, taps.products, along);
            } else {
              const Jet<V, ND> moved = taps.axes.template gather<1, ND, V>(image + c);
              for (int a = 0; a < ND; ++a) d += moved.slope[a];
            }
          }
          store_channels(to + c, d);
        });
      }
    });
  }

  // Sums of one pixel over the channels. Those of a lane are the same at every width of vectors.
  struct Sums {
    static constexpr int lanes = 64 / int(sizeof(R));
    alignas(64) R lane[lanes] = {};

    template <class V>
    PYSTN_HD void add(int64_t c, const V& term) {
      R* const at = lane + c % lanes;
      store_channels(at, load_channels<V>(at) + term);
    }
    R total() {
      for (int half = lanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
      return lane[0];
    }
  };

  static void vjp_grid(const SampleJob& job, int64_t chunk) {
    const int64_t n0 = chunk / chunks_per_image(job);
    const int64_t n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    const Index column = column_stride(job, job.output.axis);
    Run<R, ND> run;
    AxisTaps<true> taps;
    R sum[ND][strip_columns];
    General::template for_each_placed<1>(job, n0, chunk % chunks_per_image(job), run, [&](const Span& span) {
      const Index first = General::place_of(job, job.output, 0, span, 0);
      for (int i = 0; i < span.count; ++i) {
        for (int a = 0; a < ND; ++a) sum[a][i] = R(0);
        taps.place(run, i, job.input.axis);
        if (taps.none) continue;  // a sample outside has no slope
        prefetch(run, i + 4, span.count, job.input, n0);
        Sums sums[ND];
        for (int64_t n = n0; n < n1; ++n) {
          const R* const image = pixels_of(job.input, n);
          const R* const cotangent = static_cast<const R*>(job.output.data) + n * job.output.batch + first + i * column;
          across<R>(0, job.channels, [&](auto zero, int64_t c) __attribute__((always_inline)) {
            using V = decltype(zero);
            const Jet<V, ND> moved = taps.template gather<1, ND, V>(image + c);
            const V g = load_channels<V>(cotangent + c);
            for (int a = 0; a < ND; ++a) sums[a].add(c, V(g * moved.slope[a]));
          });
        }
        for (int a = 0; a < ND; ++a) sum[a][i] = sums[a].total();
      }
      const R(*const no_mask)[strip_columns] = nullptr;
      put_grad_grid(job, n0, chunk, span, run, sum, no_mask);
    });
  }

  // to += g w, at the taps of a pixel.
  template <class V>
  static PYSTN_HD void add_to_taps(R* to, const Taps<false>& taps, const V& g) {
    if constexpr (flat) {
      const auto add = [&](int k) __attribute__((always_inline)) {
        R* const at = to + taps.products.offset[k];
        store_channels(at, V(load_channels<V>(at) + g * in_all<V>(taps.products.weight[k])));
      };
      if (taps.products.count == taps.products.capacity)
        for (int k = 0; k < taps.products.capacity; ++k) add(k);
      else
        for (int k = 0; k < taps.products.count; ++k) add(k);
    } else {
      taps.axes.template scatter<ND, V>(to, g);
    }
  }

  static void vjp_input(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear(job);
    R* const image = static_cast<R*>(job.grad_input.data) + part.n0 * job.grad_input.batch;
    const Index column = column_stride(job, job.output.axis);
    Run<R, ND> run;
    Taps<false> taps;
    General::template for_each_of_part<0>(job, part, run, [&](int64_t n, const Span& span, int64_t) {
      const R* cotangent = static_cast<const R*>(job.output.data) + General::place_of(job, job.output, n, span, 0);
      for (int i = 0; i < span.count; ++i, cotangent += column) {
        taps.place(run, i, job.grad_input.axis);
        if (taps.none) continue;
        across<R>(part.channel0, part.channel1, [&](auto zero, int64_t c) __attribute__((always_inline)) {
          add_to_taps(image + c, taps, load_channels<decltype(zero)>(cotangent + c));
        });
      }
    });
  }

  // Both gradients in one pass, where a task owns all of an image's and each grid has one image.
  static void vjp(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear(job);
    R* const grad = static_cast<R*>(job.grad_input.data) + part.n0 * job.grad_input.batch;
    const Index column = column_stride(job, job.output.axis);
    Run<R, ND> run;
    Taps<false> taps;
    AxisTaps<true> slopes;
    R sum[ND][strip_columns];
    General::template for_each_of_part<1>(job, part, run, [&](int64_t n, const Span& span, int64_t chunk) {
      const R* const image = pixels_of(job.input, n);
      const R* cotangent = static_cast<const R*>(job.output.data) + General::place_of(job, job.output, n, span, 0);
      for (int i = 0; i < span.count; ++i, cotangent += column) {
        for (int a = 0; a < ND; ++a) sum[a][i] = R(0);
        taps.place(run, i, job.grad_input.axis);
        if (taps.none) continue;
        slopes.place(run, i, job.input.axis);
        prefetch(run, i + 4, span.count, job.input, n);
        Sums sums[ND];
        across<R>(0, job.channels, [&](auto zero, int64_t c) __attribute__((always_inline)) {
          using V = decltype(zero);
          const V g = load_channels<V>(cotangent + c);
          const Jet<V, ND> moved = slopes.template gather<1, ND, V>(image + c);
          for (int a = 0; a < ND; ++a) sums[a].add(c, V(g * moved.slope[a]));
          add_to_taps(grad + c, taps, g);
        });
        for (int a = 0; a < ND; ++a) sum[a][i] = sums[a].total();
      }
      const R(*const no_mask)[strip_columns] = nullptr;
      put_grad_grid(job, n, chunk, span, run, sum, no_mask);
    });
  }
};

// Whether channels in lanes can do what a job asks for.
template <class R>
inline bool fits_channels(Direction direction, const SampleJob& job) {
  if (job.channels * int64_t(sizeof(R)) < 16 || job.components != 1) return false;
  if (job.mask.data || job.projected || job.chosen.data || job.output.channel != 1) return false;
  if (direction == Direction::forward && job.output_batch != job.batch) return false;
  const bool slopes = direction == Direction::vjp_grid || direction == Direction::vjp;
  if ((direction == Direction::jvp && (job.fill || job.d_fill)) || (slopes && job.fill)) return false;
  const ImageArray* const images[] = {&job.input, &job.d_input, &job.grad_input};
  for (const ImageArray* image : images)
    if (image->data && image->channel != 1) return false;
  return true;
}

}  // namespace pystn::PYSTN_LEVEL
#endif
