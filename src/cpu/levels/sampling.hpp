// The sampler's loops for any type, stride, layout, kernel and dimension: a run's taps are placed,
// then one pixel at a time, the channels inside. The special cases in tiles.hpp give the same bits.
//
// Directions that read the image write the output's pixels, or the grid's, in chunks of pixels;
// those that add to an image run in tasks that each own a part of it.
#pragma once

#include "elements.hpp"
#include "parts.hpp"
#include "reach.hpp"
#include "run.hpp"

namespace pystn::PYSTN_LEVEL {

inline Type type_of(Element type) { return Type(int(type)); }

// T: the images' type, or Any; R: the arithmetic's; S: taps on every axis, or 0 if that is known only
// when it runs. Of one or two taps the products of the axes' weights are made once for all channels;
// of more, each channel sums axis by axis.
template <class T, class R, int S, int ND>
struct Sampler {
  using E = Elements<T>;
  static constexpr bool flat = S == 1 || S == 2;

  struct Image {
    const void* data;
    Type type;
    Index channel, stride[ND];

    Image(const ImageArray& image, int64_t n, Index element)
        : data(static_cast<const char*>(image.data) + n * image.batch * element),
          type(type_of(image.type)),
          channel(image.channel) {
      for (int a = 0; a < ND; ++a) stride[a] = image.axis[a];
    }
    R operator()(Index i) const { return E::template load<R>(data, type, i); }
  };

  static Index element_size(Element type) {
    return type == Element::f64 ? 8 : type == Element::f32 ? 4 : type == Element::u8 ? 1 : 2;
  }
  static Image image_of(const ImageArray& image, int64_t n) { return Image(image, n, element_size(image.type)); }

  static R sample(const SampleArray& from, Index i) { return E::template load<R>(from.data, type_of(from.type), i); }
  static void put(const SampleArray& to, Index i, R x) { E::template store<R>(to.data, type_of(to.type), i, x); }
  static R mask_at(const SampleJob& job, Index i) {
    return Elements<Any>::load<R>(job.mask.data, type_of(job.mask.type), i);
  }
  static void put_mask(const SampleJob& job, Index i, R x) {
    Elements<Any>::store<R>(job.mask.data, type_of(job.mask.type), i, x);
  }

  // Where pixel i of a run is among samples.
  static Index place_of(const SampleJob& job, const SampleArray& samples, int64_t n, const Span& span, int i) {
    return n * samples.batch + offset_of(job, samples.axis, span) + i * column_stride(job, samples.axis);
  }

  // How deep in the output a span is, where that axis is projected.
  static Index depth_of(const SampleJob& job, const Span& span) { return span.outer % job.source.size[ND - 1]; }
  static int32_t& chosen_at(const SampleJob& job, int64_t n, const Span& span, int i, int64_t c) {
    const Index at = place_of(job, job.chosen, n, span, i) + channel_offset(job, job.chosen.channel, c);
    return static_cast<int32_t*>(job.chosen.data)[at];
  }
  // Whether a sample is part of what it is projected to.
  static bool takes_part(const SampleJob& job, int64_t n, const Span& span, int i, int64_t c) {
    return !job.chosen.data || chosen_at(job, n, span, i, c) == depth_of(job, span);
  }

  // Puts a sample into the output, where samples at other depths may be.
  static void put_projected(const SampleJob& job, int64_t n, const Span& span, int i, int64_t c, Index to, R value) {
    const bool first = depth_of(job, span) == 0;
    if (job.maximum) {
      const R most = first ? R(0) : sample(job.output, to);
      if (!first && !exceeds(value, most)) return;
      chosen_at(job, n, span, i, c) = int32_t(depth_of(job, span));
      put(job.output, to, value);
    } else if (job.chosen.data) {
      if (takes_part(job, n, span, i, c)) put(job.output, to, value);
    } else {
      put(job.output, to, first ? value : value + sample(job.output, to));
    }
  }

  // Products of the axes' weights and slopes: the taps of a pixel that are in the image.
  template <bool slopes>
  struct FlatTaps {
    static constexpr int capacity = flat ? power(S, ND) : 1;
    int count;
    Index offset[capacity];
    R weight[capacity], slope[slopes ? ND : 1][slopes ? capacity : 1];

    template <class Stride>
    void place(const Run<R, ND>& run, int i, const Stride* stride) {
      constexpr int taps = S ? S : 1;
      const bool whole = run.whole[i];
      Index index[ND][taps];
      R w[ND][taps], dw[ND][taps];
      for (int a = 0; a < ND; ++a)
        for (int t = 0; t < taps; ++t) {
          const AxisTable<R>& table = run.axis[a];
          index[a][t] = table.index_of(i, t);
          w[a][t] = table.w[table.entry(i, t)];
          if (slopes) dw[a][t] = table.dw[table.entry(i, t)];
        }
      count = 0;
      for (int k = 0; k < capacity; ++k) {
        int tap[ND];
        bool inside = true;
        Index o = 0;
        R product = R(1);
        for (int a = 0, rest = k; a < ND; ++a, rest /= taps) {
          tap[a] = rest % taps;
          if (!whole) inside = inside && index[a][tap[a]] >= 0;
          o += index[a][tap[a]] * stride[a];
          product *= w[a][tap[a]];
        }
        if (!inside) continue;
        const int slot = whole ? k : count++;
        offset[slot] = o;
        weight[slot] = product;
        for (int a = 0; slopes && a < ND; ++a) {
          R s = dw[a][tap[a]];
          for (int b = 0; b < ND; ++b)
            if (b != a) s *= w[b][tap[b]];
          slope[a][slot] = s;
        }
      }
      if (whole) count = capacity;
    }

    R gather(const Image& image, Index channel, const R* weights) const {
      if (count == 0) return R(0);
      R sum = weights[0] * image(channel + offset[0]);
      if (count == capacity)
        for (int k = 1; k < capacity; ++k) sum += weights[k] * image(channel + offset[k]);
      else
        for (int k = 1; k < count && k < capacity; ++k) sum += weights[k] * image(channel + offset[k]);
      return sum;
    }
  };

  // The sum over the taps of pixel i on the first L axes, with derivatives up to `order`.
  template <int order, int L>
  static PYSTN_HD Jet<R, L> gather(const Image& image, const Run<R, ND>& run, int i, Index at) {
    Jet<R, L> sum;
    if constexpr (L == 0) {
      sum.value = image(at);
    } else {
      const AxisTable<R>& table = run.axis[L - 1];
      const int taps = S ? S : table.taps;
      for (int k = 0; k < taps; ++k) {
        const Index index = table.index_of(i, k);
        if (index < 0) continue;
        const int e = table.entry(i, k);
        const Jet<R, L - 1> inner = gather<order, L - 1>(image, run, i, at + index * image.stride[L - 1]);
        sum.template add<order>(inner, table.w[e], order >= 1 ? table.dw[e] : R(0), order >= 2 ? table.d2w[e] : R(0));
      }
    }
    return sum;
  }

  template <int order>
  static Jet<R, ND> jet(const Image& image, const Run<R, ND>& run, int i, Index channel) {
    return gather<order, ND>(image, run, i, channel);
  }

  // Calls body(span) for the runs of a chunk, placed.
  template <int order, class Body>
  static void for_each_placed(const SampleJob& job, int64_t n, int64_t chunk, Run<R, ND>& run, Body&& body,
                              int lanes = 1) {
    for_each_strip(job, chunk, [&](const Span& strip) {
      for_each_run(job, strip, [&](const Span& span) {
        run.template place<order>(job, n, span, lanes);
        body(span);
      });
    });
  }

  static bool reads_fill(const SampleJob& job, const Run<R, ND>& run, int i) {
    return job.fill && !run.cut[i] && !run.whole[i];
  }

  // The taps of all pixels of a run.
  template <bool slopes>
  struct FlatRun {
    FlatTaps<slopes> taps[flat ? strip_columns : 1];

    template <class Stride>
    void place(const Run<R, ND>& run, int count, const Stride* stride) {
      for (int i = 0; flat && i < count; ++i) taps[i].place(run, i, stride);
    }
  };

  // out[c] = sum_k w_k input[c, k], channels next to each other.
  static void gather_channels(const Image& image, const FlatTaps<false>& taps, int64_t channels,
                              const SampleArray& output, Index at) {
    if constexpr (flat && E::typed) {
      const T* __restrict const pixels = static_cast<const T*>(image.data);
      T* __restrict const out = static_cast<T*>(output.data) + at;
      for (int64_t c = 0; c < channels; ++c) {
        R sum = taps.weight[0] * R(pixels[taps.offset[0] + c]);
        for (int k = 1; k < FlatTaps<false>::capacity; ++k) sum += taps.weight[k] * R(pixels[taps.offset[k] + c]);
        out[c] = T(sum);
      }
    }
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n0 = chunk / chunks_per_image(job);
    const int64_t n1 = job.output_batch == 1 ? job.batch : n0 + 1;
    const bool channels_last = flat && E::typed && job.input.channel == 1 && job.output.channel == 1 &&
                               job.components == 1 && n1 == n0 + 1 && !job.projected;
    const Index column = column_stride(job, job.output.axis);
    Run<R, ND> run;
    FlatRun<false> products;
    R filled[strip_columns];  // weight of the fill value
    for (int64_t n = n0; n < n1; ++n) {
      const Image image = image_of(job.input, n);
      for_each_placed<0>(job, n, chunk % chunks_per_image(job), run, [&](const Span& span) {
        const Index first = place_of(job, job.output, job.output_batch == 1 ? 0 : n, span, 0);
        products.place(run, span.count, image.stride);
        for (int i = 0; job.fill && i < span.count; ++i)
          filled[i] = run.cut[i] ? R(1) : run.whole[i] ? R(0) : run.outside(job, i, 0).value;
        const auto sample_pixel = [&](int i, int64_t c) {
          const Index channel = channel_offset(job, image.channel, c);
          R value = R(0);
          if (!run.cut[i])
            value = flat ? products.taps[i].gather(image, channel, products.taps[i].weight)
                         : jet<0>(image, run, i, channel).value;
          if (job.fill && filled[i] != R(0)) value += filled[i] * R(job.fill[c]);
          const Index to = first + i * column + channel_offset(job, job.output.channel, c);
          if (job.projected) return put_projected(job, n, span, i, c, to, value);
          put(job.output, to, n == n0 ? value : value + sample(job.output, to));
        };
        if (channels_last) {
          for (int i = 0; i < span.count; ++i)
            if (run.whole[i] && !run.cut[i])
              gather_channels(image, products.taps[i], job.channels, job.output, first + i * column);
            else
              for (int64_t c = 0; c < job.channels; ++c) sample_pixel(i, c);
        } else {
          for (int64_t c = 0; c < job.channels; ++c)
            for (int i = 0; i < span.count; ++i) sample_pixel(i, c);
        }
      });
    }
  }

  // output = V(Z) + the derivative of V(U) along d_grid and the parameters' tangents
  static void jvp(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    bool turns = has_steps(job);
    for (int a = 0; a < ND; ++a) turns = turns || job.d_kernel[a];
    const bool fills = job.fill || job.d_fill;
    const Image image = image_of(job.input, n), tangent = image_of(job.d_input, n);
    const Index column = column_stride(job, job.output.axis);
    Run<R, ND> run;
    FlatRun<true> products;
    FlatRun<false> tangents;
    R along[strip_columns][FlatTaps<true>::capacity];  // weights of the derivative
    R filled[strip_columns], d_filled[strip_columns];
    for_each_placed<1>(job, n, chunk % chunks_per_image(job), run, [&](const Span& span) {
      const Index first = place_of(job, job.output, n, span, 0);
      run.turn(job, n, span);
      products.place(run, span.count, image.stride);
      if (job.d_input.data) tangents.place(run, span.count, tangent.stride);
      for (int i = 0; flat && i < span.count; ++i)
        for (int k = 0; k < products.taps[i].count; ++k) {
          R sum = R(0);
          for (int a = 0; a < ND; ++a) sum += products.taps[i].slope[a][k];
          along[i][k] = sum;
        }
      for (int i = 0; job.mask.data && i < span.count; ++i) {
        const Jet<R, ND> cover = run.coverage(i, 1);
        R d = R(0);
        for (int a = 0; a < ND; ++a) d += cover.slope[a];
        put_mask(job, place_of(job, job.mask, n, span, i), d);
      }
      for (int i = 0; fills && i < span.count; ++i) {
        filled[i] = R(0);
        d_filled[i] = run.cut[i] ? R(1) : R(0);
        if (run.cut[i] || run.whole[i]) continue;
        const Jet<R, ND> share = run.outside(job, i, 1);
        d_filled[i] = share.value;
        for (int a = 0; a < ND; ++a) filled[i] += share.slope[a];
      }
      for (int64_t c = 0; c < job.channels; ++c)
        for (int i = 0; i < span.count; ++i) {
          R d = R(0);
          if (!run.cut[i] && job.d_input.data) {
            const Index channel = channel_offset(job, tangent.channel, c);
            d = flat ? tangents.taps[i].gather(tangent, channel, tangents.taps[i].weight)
                     : jet<0>(tangent, run, i, channel).value;
          }
          if (!run.cut[i] && turns) {
            const Index channel = channel_offset(job, image.channel, c);
            if (flat) {
              d += products.taps[i].gather(image, channel, along[i]);
            } else {
              const Jet<R, ND> moved = jet<1>(image, run, i, channel);
              for (int a = 0; a < ND; ++a) d += moved.slope[a];
            }
          }
          if (job.fill && filled[i] != R(0)) d += filled[i] * R(job.fill[c]);
          if (job.d_fill && d_filled[i] != R(0)) d += d_filled[i] * R(job.d_fill[c]);
          const Index to = first + i * column + channel_offset(job, job.output.channel, c);
          job.projected ? put_projected(job, n, span, i, c, to, d) : put(job.output, to, d);
        }
    });
  }

  // grad_grid_a = sum_c output_c V_a(U_c); over the batch too if it shares a grid. Without the mask: masks.hpp.
  static void vjp_grid(const SampleJob& job, int64_t chunk) {
    const int64_t n0 = chunk / chunks_per_image(job);
    const int64_t n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    const Index column = column_stride(job, job.output.axis);
    Run<R, ND> run;
    FlatRun<true> products;
    R sum[ND][strip_columns];
    bool reads[strip_columns], fills[strip_columns];
    Jet<R, ND> share[strip_columns];
    for_each_placed<1>(job, n0, chunk % chunks_per_image(job), run, [&](const Span& span) {
      products.place(run, span.count, image_of(job.input, n0).stride);
      for (int i = 0; i < span.count; ++i) {
        reads[i] = run.reads(i);  // a sample outside has no slope
        fills[i] = reads_fill(job, run, i);
        if (fills[i]) share[i] = run.outside(job, i, 1);
        for (int a = 0; a < ND; ++a) sum[a][i] = R(0);
      }
      for (int64_t n = n0; n < n1; ++n) {
        const Image image = image_of(job.input, n);
        const Index first = place_of(job, job.output, n, span, 0);
        for (int64_t c = 0; c < job.channels; ++c) {
          const Index channel = channel_offset(job, image.channel, c);
          const Index from = first + channel_offset(job, job.output.channel, c);
          for (int i = 0; i < span.count; ++i) {
            if ((!reads[i] && !fills[i]) || !takes_part(job, n, span, i, c)) continue;
            R slope[ND] = {};
            if (reads[i] && flat) {
              const FlatTaps<true>& taps = products.taps[i];
              for (int k = 0; k < taps.count; ++k) {
                const R value = image(channel + taps.offset[k]);
                for (int a = 0; a < ND; ++a) slope[a] += taps.slope[a][k] * value;
              }
            } else if (reads[i]) {
              const Jet<R, ND> moved = jet<1>(image, run, i, channel);
              for (int a = 0; a < ND; ++a) slope[a] = moved.slope[a];
            }
            for (int a = 0; fills[i] && a < ND; ++a) slope[a] += R(job.fill[c]) * share[i].slope[a];
            const R g = sample(job.output, from + i * column);
            for (int a = 0; a < ND; ++a) sum[a][i] += g * slope[a];
          }
        }
      }
      put_grad_grid<R, ND>(job, n0, chunk, span, run, sum);
    });
  }

  // The tangent of pixel i's position: d_grid, in pixels.
  static void step_of(const SampleJob& job, int64_t n, const Span& span, const Run<R, ND>& run, int i, R (&step)[ND]) {
    for (int a = 0; a < ND; ++a) {
      const R f = run.axis[a].factor[i];
      step[a] = f == R(0) || !job.d_grid.data ? R(0) : f * R(grid_element(job, job.d_grid, n, span, i, a));
    }
  }

  // slope[a] = V_a(Z_c) + sum_b step_b V_ab(U_c)
  static void second_slopes(const SampleJob& job, const Run<R, ND>& run, int i, Index c, const Image& image,
                            const Image& tangent, const R (&step)[ND], const Jet<R, ND>& share, R (&slope)[ND]) {
    for (int a = 0; a < ND; ++a) slope[a] = R(0);
    if (job.d_input.data) {
      const Jet<R, ND> moved = jet<1>(tangent, run, i, channel_offset(job, tangent.channel, c));
      for (int a = 0; a < ND; ++a) slope[a] = moved.slope[a];
    }
    if (!job.d_grid.data) return;
    const Jet<R, ND> curved = jet<2>(image, run, i, channel_offset(job, image.channel, c));
    for (int a = 0; a < ND; ++a)
      for (int b = 0; b < ND; ++b)
        slope[a] += step[b] * (curved.curve[a][b] + (job.fill ? R(job.fill[c]) * share.curve[a][b] : R(0)));
  }

  // grad_grid_a = sum_c output_c (V_a(Z_c) + sum_b d_grid_b V_ab(U_c))
  static void vjp2_grid(const SampleJob& job, int64_t chunk) {
    const int64_t n0 = chunk / chunks_per_image(job);
    const int64_t n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    Run<R, ND> run;
    R sum[ND][strip_columns], through_mask[ND][strip_columns];
    for_each_placed<2>(job, n0, chunk % chunks_per_image(job), run, [&](const Span& span) {
      for (int i = 0; i < span.count; ++i) {
        R step[ND], slope[ND];
        for (int a = 0; a < ND; ++a) sum[a][i] = through_mask[a][i] = R(0);
        step_of(job, n0, span, run, i, step);
        const Jet<R, ND> share = reads_fill(job, run, i) ? run.outside(job, i, 2) : Jet<R, ND>();
        const Jet<R, ND> cover = job.mask.data ? run.coverage(i, 2) : Jet<R, ND>();
        for (int64_t n = n0; n < n1; ++n) {
          const Image image = image_of(job.input, n), tangent = image_of(job.d_input, n);
          const Index at = place_of(job, job.output, n, span, i);
          for (int64_t c = 0; !run.cut[i] && c < job.channels; ++c) {
            const R g = sample(job.output, at + channel_offset(job, job.output.channel, c));
            second_slopes(job, run, i, c, image, tangent, step, share, slope);
            for (int a = 0; a < ND; ++a) sum[a][i] += g * slope[a];
          }
          if (job.mask.data && job.d_grid.data) {
            const R g = mask_at(job, place_of(job, job.mask, n, span, i));
            for (int a = 0; a < ND; ++a)
              for (int b = 0; b < ND; ++b)
                through_mask[a][i] += g * R(grid_element(job, job.d_grid, n0, span, i, b)) * cover.curve[a][b];
          }
        }
      }
      put_grad_grid<R, ND>(job, n0, chunk, span, run, sum);
      if (job.mask.data) add_grad_grid(job, n0, chunk, span, through_mask);
    });
  }

  // gradient_a = V_a(U), in the units of the grid
  static void gradient(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const Image image = image_of(job.input, n);
    Run<R, ND> run;
    for_each_placed<1>(job, n, chunk % chunks_per_image(job), run, [&](const Span& span) {
      for (int i = 0; i < span.count; ++i) {
        const Index at = place_of(job, job.gradient, n, span, i);
        const bool reads = run.reads(i), fills = reads_fill(job, run, i);
        const Jet<R, ND> share = fills ? run.outside(job, i, 1) : Jet<R, ND>();
        for (int64_t c = 0; c < job.channels; ++c) {
          Jet<R, ND> moved;
          if (reads) moved = jet<1>(image, run, i, channel_offset(job, image.channel, c));
          const Index to = at + channel_offset(job, job.gradient.channel, c);
          for (int a = 0; a < ND; ++a) {
            const R f = run.axis[a].factor[i],
                    slope = moved.slope[a] + (fills ? R(job.fill[c]) * share.slope[a] : R(0));
            put(job.gradient, to + a * job.gradient.component, f == R(0) || !(reads || fills) ? R(0) : f * slope);
          }
        }
      }
    });
  }

  // gradient_a = V_a(Z) + sum_b d_grid_b V_ab(U)
  static void gradient_jvp(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const Image image = image_of(job.input, n), tangent = image_of(job.d_input, n);
    Run<R, ND> run;
    for_each_placed<2>(job, n, chunk % chunks_per_image(job), run, [&](const Span& span) {
      for (int i = 0; i < span.count; ++i) {
        const Index at = place_of(job, job.gradient, n, span, i);
        R step[ND], slope[ND] = {};
        step_of(job, n, span, run, i, step);
        const Jet<R, ND> share = reads_fill(job, run, i) ? run.outside(job, i, 2) : Jet<R, ND>();
        for (int64_t c = 0; c < job.channels; ++c) {
          if (!run.cut[i]) second_slopes(job, run, i, c, image, tangent, step, share, slope);
          const Index to = at + channel_offset(job, job.gradient.channel, c);
          for (int a = 0; a < ND; ++a) {
            const R f = run.axis[a].factor[i];
            put(job.gradient, to + a * job.gradient.component, f == R(0) || run.cut[i] ? R(0) : f * slope[a]);
          }
        }
      }
    });
  }

  // grad_grid_b = sum_c sum_a gradient_ca V_ab(U_c)
  static void gradient_vjp_grid(const SampleJob& job, int64_t chunk) {
    const int64_t n0 = chunk / chunks_per_image(job);
    const int64_t n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    Run<R, ND> run;
    R sum[ND][strip_columns];
    for_each_placed<2>(job, n0, chunk % chunks_per_image(job), run, [&](const Span& span) {
      for (int i = 0; i < span.count; ++i) {
        for (int a = 0; a < ND; ++a) sum[a][i] = R(0);
        const Jet<R, ND> share = reads_fill(job, run, i) ? run.outside(job, i, 2) : Jet<R, ND>();
        for (int64_t n = n0; !run.cut[i] && n < n1; ++n) {
          const Image image = image_of(job.input, n);
          const Index at = place_of(job, job.gradient, n, span, i);
          for (int64_t c = 0; c < job.channels; ++c) {
            const Jet<R, ND> curved = jet<2>(image, run, i, channel_offset(job, image.channel, c));
            const Index from = at + channel_offset(job, job.gradient.channel, c);
            for (int a = 0; a < ND; ++a) {
              const R f = run.axis[a].factor[i];
              if (f == R(0)) continue;
              const R g = f * sample(job.gradient, from + a * job.gradient.component);
              for (int b = 0; b < ND; ++b)
                sum[b][i] += g * (curved.curve[a][b] + (job.fill ? R(job.fill[c]) * share.curve[a][b] : R(0)));
            }
          }
        }
      }
      put_grad_grid<R, ND>(job, n0, chunk, span, run, sum);
    });
  }

  // Sums for the gradients to the fill value and the kernels' parameters, of one group of chunks.
  static void vjp_options(const SampleJob& job, int64_t group) {
    const int64_t chunks = job.batch * chunks_per_image(job);
    double* const partial = job.partial + group * job.partial_row;
    for (int64_t k = 0; k < job.partial_row; ++k) partial[k] = 0;
    Run<R, ND> run;
    R by_weight[ND][max_taps], by_cover[ND][max_taps];
    for (int64_t chunk = chunks * group / job.groups; chunk < chunks * (group + 1) / job.groups; ++chunk) {
      const int64_t n = chunk / chunks_per_image(job);
      const Image image = image_of(job.input, n);
      for_each_placed<0>(job, n, chunk % chunks_per_image(job), run, [&](const Span& span) {
        for (int i = 0; i < span.count; ++i) {
          const Index at = place_of(job, job.output, n, span, i);
          const R filled = run.cut[i] ? R(1) : run.whole[i] ? R(0) : run.outside(job, i, 0).value;
          double fill = 0;  // sum_c g_c fill_c
          for (int64_t c = 0; c < job.channels && (filled != R(0) || job.fill); ++c) {
            const double g = sample(job.output, at + channel_offset(job, job.output.channel, c));
            if (filled != R(0)) partial[c] += g * filled;
            if (job.fill) fill += g * job.fill[c];
          }
          if (run.cut[i] || job.partial_row == job.channels) continue;
          for (int a = 0; a < ND; ++a)
            for (int k = 0; k < run.axis[a].taps; ++k) by_weight[a][k] = by_cover[a][k] = R(0);
          add_by_weight(PixelTaps{run.axis, i}, by_weight, [&](const Index* index) {
            R sum = R(0);
            Index offset = 0;
            for (int a = 0; a < ND; ++a) offset += index[a] * image.stride[a];
            for (int64_t c = 0; c < job.channels; ++c)
              sum += sample(job.output, at + channel_offset(job, job.output.channel, c)) *
                     image(channel_offset(job, image.channel, c) + offset);
            return sum;
          });
          if (fill != 0 && !run.whole[i]) add_fill(job, run, i, R(fill), by_weight);
          if (job.mask.data) {
            const R cover = run.weight_inside(i, 0).value, g = mask_at(job, place_of(job, job.mask, n, span, i));
            if (cover >= R(0) && cover <= R(1))
              add_by_weight(PixelTaps{run.cover, i}, by_cover, [&](const Index*) { return g; });
          }
          double* to = partial + job.channels;
          for (int a = 0; a < ND; ++a) {
            with_parametric_kernel<R>(kernel_of(job, a), [&](const auto& kernel) {
              R t;
              cell_and_phase(kernel, run.axis[a].position[i], t);
              for (int k = 0; job.mask.data && k < kernel.taps; ++k) by_weight[a][k] += by_cover[a][k];
              kernel.pull(t, by_weight[a], to);
            });
            to += job.kernel[a].parameters;
          }
        }
      });
    }
  }

  // The taps of one pixel of a run.
  struct PixelTaps {
    const AxisTable<R>* axis;
    int i;

    int count(int a) const { return axis[a].taps; }
    Index index(int a, int k) const { return axis[a].index_of(i, k); }
    R weight(int a, int k) const { return axis[a].w[axis[a].entry(i, k)]; }
  };

  static void add_fill(const SampleJob& job, const Run<R, ND>& run, int i, R fill, R (&by_weight)[ND][max_taps]) {
    R all[ND][3], inside[ND][3];
    bool fills[ND];
    for (int a = 0; a < ND; ++a) {
      fills[a] = Boundary(job.boundary[a]) == Boundary::constant;
      run.axis[a].sum(i, true, inside[a], 0);
      run.axis[a].sum(i, !fills[a], all[a], 0);
    }
    add_fill_by_weight(PixelTaps{run.axis, i}, all, inside, fills, fill, by_weight);
  }

  // Adds value * w + sum_a slope_a * w_a to the taps of pixel i on the first L axes.
  template <bool slopes, int L>
  static PYSTN_HD void scatter(const ImageArray& image, const Run<R, ND>& run, int i, Index at, R value,
                               const R* slope) {
    if constexpr (L == 0) {
      const Type type = type_of(image.type);
      E::template store<R>(image.data, type, at, E::template load<R>(image.data, type, at) + value);
    } else {
      const AxisTable<R>& table = run.axis[L - 1];
      const int taps = S ? S : table.taps;
      for (int k = 0; k < taps; ++k) {
        const Index index = table.index_of(i, k);
        if (index < 0) continue;
        const int e = table.entry(i, k);
        R inner[ND], next = value * table.w[e];
        if (slopes) {
          next += slope[L - 1] * table.dw[e];
          for (int a = 0; a < L - 1; ++a) inner[a] = slope[a] * table.w[e];
        }
        scatter<slopes, L - 1>(image, run, i, at + index * image.axis[L - 1], next, inner);
      }
    }
  }

  // Calls body(n, strip, chunk) for the strips that a part may own taps of, in the order of the output.
  template <class Body>
  static void for_each_strip_of(const SampleJob& job, const Part& part, Body&& body) {
    for (int64_t n = part.n0; n < part.n1; ++n)
      for (int64_t chunk = 0; chunk < chunks_per_image(job); ++chunk) {
        const Reach* reach = job.reach ? reaches_of(job, n, chunk) : nullptr;
        for_each_strip(job, chunk, [&](const Span& strip) {
          if (!reach || part.meets(*reach++)) body(n, strip, n * chunks_per_image(job) + chunk);
        });
      }
  }

  // The same, and places them.
  template <int order, class Body>
  static void for_each_of_part(const SampleJob& job, const Part& part, Run<R, ND>& run, Body&& body, int lanes = 1) {
    for_each_strip_of(job, part, [&](int64_t n, const Span& strip, int64_t chunk) {
      for_each_run(job, strip, [&](const Span& span) {
        place_in_part<order>(job, part, n, span, run, lanes);
        body(n, span, chunk);
      });
    });
  }

  template <int order>
  static void place_in_part(const SampleJob& job, const Part& part, int64_t n, const Span& span, Run<R, ND>& run,
                            int lanes) {
    run.template place<order>(job, n, span, lanes);
    if (job.bands > 1) run.restrict_to(part.low, part.high, span.count);
  }

  // grad_input += output w. A task owns an image of the batch, a block of its channels and a band of
  // its slowest axis.
  static void vjp_input(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear(job);
    const ImageArray& image = job.grad_input;
    const Index base = part.n0 * image.batch;
    const bool channels_last =
        E::typed && image.channel == 1 && job.output.channel == 1 && job.components == 1 && !job.chosen.data;
    Run<R, ND> run;
    FlatRun<false> products;
    for_each_of_part<0>(job, part, run, [&](int64_t n, const Span& span, int64_t) {
      const Index first = place_of(job, job.output, n, span, 0), column = column_stride(job, job.output.axis);
      products.place(run, span.count, image.axis);
      if constexpr (flat && E::typed) {
        T* const to = static_cast<T*>(image.data) + base;
        const T* const from = static_cast<const T*>(job.output.data) + first;
        if (channels_last) {
          for (int i = 0; i < span.count; ++i)
            for (int k = 0; !run.cut[i] && k < products.taps[i].count; ++k)
              for (int64_t c = part.channel0; c < part.channel1; ++c)
                to[products.taps[i].offset[k] + c] += T(R(from[i * column + c]) * products.taps[i].weight[k]);
          return;
        }
        for (int64_t c = part.channel0; c < part.channel1; ++c) {
          T* const pixels = to + channel_offset(job, image.channel, c);
          const T* const cotangent = from + channel_offset(job, job.output.channel, c);
          for (int i = 0; i < span.count; ++i) {
            if (run.cut[i] || !takes_part(job, n, span, i, c)) continue;
            const R g = R(cotangent[i * column]);
            const FlatTaps<false>& taps = products.taps[i];
            for (int k = 0; k < taps.count; ++k) pixels[taps.offset[k]] += T(g * taps.weight[k]);
          }
        }
      } else {
        for (int64_t c = part.channel0; c < part.channel1; ++c) {
          const Index from = first + channel_offset(job, job.output.channel, c);
          for (int i = 0; i < span.count; ++i)
            if (!run.cut[i] && takes_part(job, n, span, i, c))
              scatter<false, ND>(image, run, i, base + channel_offset(job, image.channel, c),
                                 sample(job.output, from + i * column), nullptr);
        }
      }
    });
  }

  // grad_input += output w + sum_a (values d_grid_a + gradient_a) w_a
  static void push(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear(job);
    const ImageArray& image = job.grad_input;
    Run<R, ND> run;
    for_each_of_part<1>(job, part, run, [&](int64_t n, const Span& span, int64_t) {
      for (int i = 0; i < span.count; ++i) {
        if (run.cut[i]) continue;
        R step[ND];
        step_of(job, n, span, run, i, step);
        for (int64_t c = part.channel0; c < part.channel1; ++c) {
          const auto at = [&](const SampleArray& samples) {
            return place_of(job, samples, n, span, i) + channel_offset(job, samples.channel, c);
          };
          const R value = job.output.data ? sample(job.output, at(job.output)) : R(0);
          R slope[ND] = {};
          if (job.values.data) {
            const R v = sample(job.values, at(job.values));
            for (int a = 0; a < ND; ++a) slope[a] = step[a] == R(0) ? R(0) : v * step[a];
          }
          if (job.gradient.data)
            for (int a = 0; a < ND; ++a) {
              const R f = run.axis[a].factor[i];
              if (f != R(0)) slope[a] += f * sample(job.gradient, at(job.gradient) + a * job.gradient.component);
            }
          scatter<true, ND>(image, run, i, part.n0 * image.batch + channel_offset(job, image.channel, c), value, slope);
        }
      }
    });
  }
};

}  // namespace pystn::PYSTN_LEVEL
