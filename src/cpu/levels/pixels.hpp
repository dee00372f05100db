// The forward pass of images whose pixels are few numbers next to each other: float32 or a small type, one of 8 or 16
// bits, with two to four channels; and of planes of a small type. Linear or with four taps, float32 with three, six and
// eight too. With AVX2 most linear pixels of float32 and uint8 go the way of planes.hpp.
//
// A pixel is four lanes of a vector, its channels and what follows them in memory; a vector has one,
// two or four output pixels. In planes lanes are output pixels, and so they are for small types on
// AVX-512, with a vector for each channel. Only where all taps are in the image, and what is read beyond
// them is; where taps outside read 0 other pixels take those inside, and else go the way of sampling.hpp.
// The sums are made in its order, to the same bits.
#pragma once

#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define PYSTN_PIXELS 1

#include <type_traits>

#include "quads.hpp"
#include "small_lanes.hpp"
#include "stream.hpp"
#include "usual_taps.hpp"

namespace pystn::PYSTN_LEVEL {

// Elements of an image of C channels that are read from the first tap of a row on, S taps `column` apart.
inline int64_t read_in_row(int64_t channels, int taps, int64_t column) {
  if (channels == 1) return has_pairs ? 4 : taps;
  const int64_t by_taps = (taps - 1) * column + 4;
  return has_pairs && taps == 2 && by_taps < 8 ? 8 : by_taps;
}

// Two taps are summed by the products of their weights, four axis by axis, as in sampling.hpp.
template <int S>
using PixelTaps = StripTaps<float, S, 2, S == 2, strip_rows, 0>;
template <class T, int S>
using PlacedTaps = UsualTaps<float, S, 2, S == 2, strip_rows, 0, is_integer<T>>;

// The first tap of a pixel whose reading ends with the image.
template <int S, int C>
int last_first_tap(const SampleJob& job) {
  const int64_t column = job.input.axis[0], row = job.input.axis[1];
  return int(end_of_image(job, C) - (row > 0 ? (S - 1) * row : 0) - read_in_row(C, S, column));
}

// T: of the image's elements; C channels next to each other, or one in each of the image's planes; S taps on each axis.
template <class T, int S, int C>
struct PixelSampler {
  static constexpr bool flat = S == 2;

  template <int pixels>
  static PYSTN_HD QuadVector<pixels> value(const T* image, int column, int row, const PixelTaps<S>& taps, int i) {
    using Q = QuadOf<pixels>;
    using V = QuadVector<pixels>;
    const int* const first = taps.first + i;
    if constexpr (flat) {
      V sum = Q::spread(taps.product[0] + i) * Q::load(image, first);
      sum += Q::spread(taps.product[1] + i) * Q::load(image + column, first);
      sum += Q::spread(taps.product[2] + i) * Q::load(image + row, first);
      sum += Q::spread(taps.product[3] + i) * Q::load(image + row + column, first);
      return sum;
    } else {
      V sum{}, wx[S];
      for (int k = 0; k < S; ++k) wx[k] = Q::spread(taps.w[0][k] + i);
      for (int j = 0; j < S; ++j) {
        const T* const line = image + int64_t(j) * row;
        V inner = Q::load(line, first) * wx[0];
        for (int k = 1; k < S; ++k) inner += Q::load(line + int64_t(k) * column, first) * wx[k];
        sum += inner * Q::spread(taps.w[1][j] + i);
      }
      return sum;
    }
  }

#if PYSTN_QUADS == 4
  static PYSTN_HD QuadVector<4> value_of_pairs(const float* image, int row, const PixelTaps<2>& taps, int i) {
    using P = PairsOf<C>;
    using V = QuadVector<4>;
    V upper[2], lower[2];
    P::load(image, taps.first + i, upper);
    P::load(image + row, taps.first + i, lower);
    V sum = P::spread(taps.product[0] + i) * upper[0];
    sum += P::spread(taps.product[1] + i) * upper[1];
    sum += P::spread(taps.product[2] + i) * lower[0];
    sum += P::spread(taps.product[3] + i) * lower[1];
    return sum;
  }
#endif

  // Plain pixels from i to `end` of a run. Apart, or compilers load their constants again for each pixel.
  static PYSTN_APART void put_plain(const SampleJob& job, const T* image, const PixelTaps<S>& taps, int i, int end,
                                    T* out, Index step) {
    const int column = int(job.input.axis[0]), row = int(job.input.axis[1]);
    if constexpr (C == 1) {
      put_plane(image, row, taps, i, end, out, step);
    } else {
#if PYSTN_QUADS == 4
      if constexpr (flat && !is_small<T>)
        if (step == C && column == C)
          for (; i + 4 <= end; i += 4) PairsOf<C>::store(out + i * C, value_of_pairs(image, row, taps, i));
#endif
      if (step == C)
        for (; i + PYSTN_QUADS <= end; i += PYSTN_QUADS)
          QuadOf<PYSTN_QUADS>::template store<C>(out + i * C, value<PYSTN_QUADS>(image, column, row, taps, i));
      for (; i < end; ++i) QuadOf<1>::template store<C>(out + i * step, value<1>(image, column, row, taps, i));
    }
  }

  // One channel: rows of taps are collected as integers, element after element.
  static PYSTN_HD void put_plane(const T* image, int row, const PixelTaps<S>& taps, int begin, int end, T* out,
                                 Index step) {
    using Row = std::conditional_t<(S * sizeof(T) > 4), uint64_t, uint32_t>;
    constexpr int capacity = PixelTaps<S>::capacity, bits = 8 * int(sizeof(T));
    alignas(64) Row rows[S][capacity];
    alignas(64) T values[capacity];
    for (int j = 0; j < S; ++j)
      for (int i = begin; i < end; ++i) {
        rows[j][i] = 0;
        __builtin_memcpy(&rows[j][i], image + taps.first[i] + int64_t(j) * row, S * sizeof(T));
      }
    for (int i = begin; i < end; ++i) {
      const auto tap = [&](int j, int k) __attribute__((always_inline)) {
        return tap_of(unsigned(rows[j][i] >> bits * k) & ((1u << bits) - 1), T());
      };
      float sum = 0.0f;
      if constexpr (flat) {
        sum = taps.product[0][i] * tap(0, 0);
        for (int k = 1; k < S * S; ++k) sum += taps.product[k][i] * tap(k / S, k % S);
      } else {
        for (int j = 0; j < S; ++j) {
          float inner = 0.0f;
          for (int k = 0; k < S; ++k) inner += tap(j, k) * taps.w[0][k][i];
          sum += inner * taps.w[1][j][i];
        }
      }
      assign(values[i], sum);
    }
    for (int i = begin; i < end; ++i) out[i * step] = values[i];
  }
  static PYSTN_HD float tap_of(unsigned bits, Byte) { return float(int(bits)); }
  static PYSTN_HD float tap_of(unsigned bits, unsigned short) { return float(int(bits)); }
  static PYSTN_HD float tap_of(unsigned bits, short) { return float(int(short(bits))); }
  static PYSTN_HD float tap_of(unsigned bits, Half) { return half_to_float((unsigned short)bits); }
  static PYSTN_HD float tap_of(unsigned bits, Bfloat) { return float_of(bits << 16); }

  // One pixel some of whose taps are outside, where they read 0. As sampling.hpp does it, to the same bits.
  static void put_dropping(const SampleJob& job, const T* image, const PixelTaps<S>& taps, int i, T* out) {
    const int64_t column = job.input.axis[0], row = job.input.axis[1];
    image += taps.cell[0][i] * column + taps.cell[1][i] * row;
    float sum[C] = {};
    bool any = false;
    for (int j = 0; j < S; ++j) {
      if (!taps.reads(1, j, i)) continue;
      float inner[C] = {};
      for (int k = 0; k < S; ++k) {
        if (!taps.reads(0, k, i)) continue;
        const T* const tap = image + j * row + k * column;
        for (int c = 0; c < C; ++c) {
          const float value = number_of(tap[c]);
          if constexpr (flat)
            sum[c] = any ? sum[c] + taps.product[j * S + k][i] * value : taps.product[j * S + k][i] * value;
          else
            inner[c] += value * taps.w[0][k][i];
        }
        any = true;
      }
      for (int c = 0; !flat && c < C; ++c) sum[c] += inner[c] * taps.w[1][j][i];
    }
    for (int c = 0; c < C; ++c) assign(out[c], sum[c]);
  }

  // Asks for what strips to the right will read, twice as far from a strip as its end is from its beginning: in each
  // of its rows for some of it.
  static void prefetch(const SampleJob& job, const Span& strip, const T* image, const PixelTaps<S>& taps) {
    constexpr int64_t worthwhile = 1 << 18;  // bytes of images that nearer caches do not hold
    if (strip.count < strip_columns || job.size[0] * job.size[1] * C * int64_t(sizeof(T)) < worthwhile) return;
    constexpr int share = strip_columns / strip_rows;
    for (int r = 0; r < strip.rows; ++r) {
      const int at_row = r * taps.width, last = at_row + strip_columns - 1;
      if (!(taps.plain[at_row] & taps.plain[last])) continue;
      const int begin = at_row + int((strip.row + r) % strip_rows) * share;
      const int64_t ahead = 2 * (int64_t(taps.first[last]) - taps.first[at_row]);
      for (int i = begin; i < begin + share; i += 2) {
        const uintptr_t at = reinterpret_cast<uintptr_t>(image) + uintptr_t(taps.first[i] + ahead) * sizeof(T);
        __builtin_prefetch(reinterpret_cast<const char*>(at), 0, 2);
      }
    }
  }

  // Row r of a strip, `step` apart. Of what is neither plain nor dark, those of whom the bits are returned are left if
  // taps drop, and all if not.
  static PYSTN_HD Bits put_row(const SampleJob& job, int64_t channel, const Span& strip, int r, const T* image,
                               const PixelTaps<S>& taps, T* out, Index step) {
    const double* const fill = job.fill ? job.fill + channel : nullptr;
    const int first = r * taps.width;
#if PYSTN_QUADS == 4
    if constexpr (is_small<T>)
      if (step == C && job.input.axis[0] == C)
        return LanesOfPixels<T, S, C>::put(job, fill, image, taps, first, strip.count, out);
#endif
    T* const from = out - first * step;
    if (taps.all) {
      put_plain(job, image, taps, first, first + strip.count, from, step);
      return 0;
    }
    const Bits plain = taps.plain_bits(first, strip.count), dark = taps.dark_bits(first, strip.count) & ~plain;
    for_each_set_run(plain,
                     [&](int begin, int end) { put_plain(job, image, taps, first + begin, first + end, from, step); });
    for_each_set_run(dark, [&](int begin, int end) {
      for (int i = begin; i < end; ++i)
        for (int c = 0; c < C; ++c) assign(out[i * step + c], fill ? float(fill[c]) : 0.0f);
    });
    return first_bits(strip.count) & ~(plain | dark);
  }

  static void put_strip(const SampleJob& job, int64_t n, const Span& strip, const T* image, PlacedTaps<T, S>& taps,
                        T* out, Index row, Index step) {
    taps.place(job, n, strip, 16);
    prefetch(job, strip, image, taps);
    put_rows(job, strip, image, taps, out, row, step);
    if constexpr (PlacedTaps<T, S>::may_trust)
      if (taps.doubtful && taps.withdraw(strip.rows * taps.width, [&](int i) {
            const int column = i % taps.width;
            return column < strip.count && has_none(job, out + i / taps.width * row + column * step);
          }))
        put_rows(job, strip, image, taps, out, row, step);
    if (!taps.all && !taps.drops) put_others(job, n, strip, taps, out, row, step);
  }

  // Whether a sample is no number in any channel.
  static bool has_none(const SampleJob& job, const T* sample) {
    bool any = false;
    for (int64_t c = 0; c < job.channels; ++c) {
      const float value = number_of(sample[c * job.output.channel]);
      any = any || value != value;
    }
    return any;
  }

  static PYSTN_HD void put_rows(const SampleJob& job, const Span& strip, const T* image, const PixelTaps<S>& taps,
                                T* out, Index row, Index step) {
    for (int64_t c = 0; c < job.channels; c += C) {
      const T* const from = image + c * job.input.channel;
      T* const to = out + c * job.output.channel;
      for (int r = 0; r < strip.rows; ++r)
        for (Bits left = put_row(job, c, strip, r, from, taps, to + r * row, step); taps.drops && left;
             left &= left - 1) {
          const int i = lowest(left);
          put_dropping(job, from, taps, r * taps.width + i, to + r * row + i * step);
        }
    }
  }

  static void put_others(const SampleJob& job, int64_t n, const Span& strip, PlacedTaps<T, S>& taps, T* out, Index row,
                         Index step) {
    Flag other[strip_columns];
    const bool moves = S > 2 && !job.fill && taps.has_cells() && moves_taps<S>(job);
    for_each_piece(strip, [&](const Span& run, int r, int) {
      Bits left = taps.other_bits(r * taps.width, run.count);
      if constexpr (S > 2)
        if (moves && left) left = put_moved(job, n, taps, r * taps.width, run.count, left, out + r * row, step);
      const Span others = taps.span_of(run, left, other);
      if (others.count <= 0) return;
      const int64_t begin = others.column - run.column;
      T* const to = out + r * row + begin * step;
      if constexpr (C > 1 && S > 2)
        put_listed(job, n, others, other + begin, taps.run, to, step);
      else
        sample_others<S>(job, n, others, other + begin, taps.run, to, step, job.output.channel);
    });
  }

  // Those of them that are near an image into which all taps are moved, of so many pixels of a row from an entry on;
  // returns the bits of what is left.
  static PYSTN_APART Bits put_moved(const SampleJob& job, int64_t n, const PixelTaps<S>& taps, int entry, int count,
                                    Bits others, T* out, Index step) {
    alignas(64) int at[2][S][strip_columns];
    for (int a = 0; a < 2; ++a)
      with_tap_boundary(Boundary(job.boundary[a]), job.size[a], [&](auto boundary) {
        const unsigned stride = unsigned(job.input.axis[a]);
        for (int k = 0; k < S; ++k)
          for (int i = 0; i < count; ++i)
            at[a][k][i] = int(unsigned(boundary.nearby_tap(taps.cell[a][entry + i] + k)) * stride);
      });
    const T* const image = static_cast<const T*>(job.input.data) + n * job.input.batch;
    const Index last = end_of_image(job, C) - 4;
    Bits left = 0;
    for (; others; others &= others - 1) {
      const int i = lowest(others), e = entry + i;
      bool keeps = is_nearby<S>(taps.cell[0][e], int(job.size[0])) & is_nearby<S>(taps.cell[1][e], int(job.size[1]));
      for (int64_t c = 0; keeps && c < job.channels; c += C) {
        const T* const from = image + c * job.input.channel;
        QuadVector<1> sum{};
        for (int j = 0; j < S; ++j) {
          QuadVector<1> inner{};
          for (int k = 0; k < S; ++k) {
            const Index tap = Index(at[1][j][i]) + at[0][k][i];
            inner += (C == 1 ? QuadVector<1>{number_of(from[tap])} : read_quad(from, tap, last)) * taps.w[0][k][e];
          }
          sum += inner * taps.w[1][j][e];
        }
        QuadOf<1>::template store<C>(out + i * step + c * job.output.channel, sum);
        for (int l = 0; l < C; ++l) keeps = keeps && sum[l] == sum[l];  // a tap of weight 0 may be no number
      }
      if (!keeps) left |= Bits(1) << i;
    }
    return left;
  }

  // As sample_others, with all channels of a pixel together.
  static PYSTN_APART void put_listed(const SampleJob& job, int64_t n, const Span& span, const Flag* other,
                                     Run<float, 2>& run, T* out, Index step) {
    using V = QuadVector<1>;
    run.template place<0>(job, n, span);
    const ListedTaps<float, 2> taps(job, run, span.count);
    const AxisTable<float>&x = run.axis[0], &y = run.axis[1];
    const T* const image = static_cast<const T*>(job.input.data) + n * job.input.batch;
    const Index last = end_of_image(job, C) - 4;
    V fill{};
    for (int c = 0; job.fill && c < C; ++c) fill[c] = float(job.fill[c]);
    for (int i = 0; i < span.count; ++i) {
      if (!other[i]) continue;
      V sum{};
      for (int j = 0; !run.cut[i] && j < S; ++j) {
        if (!taps.inside[1][j][i]) continue;
        V inner{};
        for (int k = 0; k < S; ++k) {
          const Index at = taps.along[1][j][i] + taps.along[0][k][i];
          if (taps.inside[0][k][i]) inner += read_quad(image, at, last) * x.w[x.entry(i, k)];
        }
        sum += inner * y.w[y.entry(i, j)];
      }
      const float share = !job.fill ? 0.0f : run.cut[i] ? 1.0f : run.outside(job, i, 0).value;
      if (share != 0.0f) sum += share * fill;
      QuadOf<1>::template store<C>(out + i * step, sum);
    }
  }

  // Of an offset: four elements together up to `last`, and no more than the channels beyond.
  static PYSTN_HD QuadVector<1> read_quad(const T* image, Index at, Index last) {
    if (at <= last) {
      const int first = int(at);
      return QuadOf<1>::load(image, &first);
    }
    QuadVector<1> v{};
    for (int c = 0; c < C; ++c) v[c] = number_of(image[at + c]);
    return v;
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const T* const image = static_cast<const T*>(job.input.data) + n * job.input.batch;
    T* const output = static_cast<T*>(job.output.data) + n * job.output.batch;
    const Index step = column_stride(job, job.output.axis), row = row_stride(job, job.output.axis);
    const bool streams = job.streams && step == C && job.channels == C;
    PlacedTaps<T, S> taps(job, last_first_tap<S, C>(job), true);
    Stream<T, 1, strip_rows, strip_columns * C> stream(row, 0);
    for_each_strip(job, chunk % chunks_per_image(job), [&](const Span& strip) {
      T* const there = output + offset_of(job, job.output.axis, strip);
      T* const here = streams ? stream.begin(there) : there;
      put_strip(job, n, strip, image, taps, here, streams ? stream.row : row, step);
      if (streams) stream.end(there, row, 0, 1, strip.rows, strip.count * C, is_first(job, strip), is_last(job, strip));
    });
    if (streams) end_streams();
  }
};

template <class T, int C>
SampleChunk sampled_pixels(const SampleJob& job) {
  const int taps = job.kernel[0].taps;
  if (taps == 2) return PixelSampler<T, 2, C>::forward;
  if (taps == 4) return PixelSampler<T, 4, C>::forward;
  if constexpr (!is_small<T>) {
    if (taps == 3) return PixelSampler<T, 3, C>::forward;
    if (taps == 6) return PixelSampler<T, 6, C>::forward;
    if (taps == 8) return PixelSampler<T, 8, C>::forward;
  }
  return nullptr;
}

template <class T>
SampleChunk pixels_of(const SampleJob& job) {
  if (job.channels == 1 || job.input.channel != 1) {
    if constexpr (is_small<T>)
      if (job.input.axis[0] == 1) return sampled_pixels<T, 1>(job);
    return nullptr;
  }
  if (job.output.channel != 1 || job.input.axis[0] < job.channels) return nullptr;
  switch (job.channels) {
    case 2:
      return sampled_pixels<T, 2>(job);
    case 3:
      return sampled_pixels<T, 3>(job);
    case 4:
      return sampled_pixels<T, 4>(job);
    default:
      return nullptr;
  }
}

// The body for a forward job on such images, or null if the general one has to do it.
inline SampleChunk pixels(const SampleJob& job) {
  if (!job.single || job.ndim != 2 || job.components != 1 || job.output.type != job.input.type) return nullptr;
  if (job.mask.data || job.projected || job.output_batch != job.batch) return nullptr;
  const int taps = job.kernel[0].taps;
  if (job.kernel[1].taps != taps) return nullptr;
  for (int a = 0; a < 2; ++a)
    if (taps == 2 && Mode(job.kernel[a].mode) != Mode::linear) return nullptr;
  int64_t reach = 4;
  for (int a = 0; a < 2; ++a) {
    const int64_t stride = job.input.axis[a] < 0 ? -job.input.axis[a] : job.input.axis[a];
    if (job.full[a] >= int64_t(1) << 29) return nullptr;
    reach += (job.size[a] + 256) * stride;  // first taps that count are at most 128 pixels outside
  }
  if (reach >= int64_t(1) << 31 || job.size[0] < 2 || job.size[1] < 2) return nullptr;
  switch (job.input.type) {
    case Element::f32:
      return pixels_of<float>(job);
    case Element::f16:
      return pixels_of<Half>(job);
    case Element::bf16:
      return pixels_of<Bfloat>(job);
    case Element::u8:
      return pixels_of<Byte>(job);
    case Element::i16:
      return pixels_of<short>(job);
    case Element::u16:
      return pixels_of<unsigned short>(job);
    default:
      return nullptr;
  }
}

}  // namespace pystn::PYSTN_LEVEL
#endif
