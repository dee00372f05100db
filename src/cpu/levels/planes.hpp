// Linear and nearest samples of few channels, in planes or next to each other, eight output pixels at a time: what is
// known of them is made in registers, and little of it is kept for the pixels that are placed before any is read.
// Coordinates are stored in pairs or made from a matrix, of float32 or float64; taps outside read 0 or have the fill
// value, or are those of folded coordinates. Values are those of sampling.hpp.
//
// Linear pixels of planes read pairs of neighbours, one load for each. At the image's borders it is a pair in the
// image, in which the taps are found. On AVX-512 what is linear is not here, nor channels next to each other: there are
// tiles, small_lanes.hpp and copies.hpp.
#pragma once

#include "plane_taps.hpp"

#if defined(PYSTN_EIGHT_LANES)

#include "copies.hpp"
#include "packed_pixels.hpp"

namespace pystn::PYSTN_LEVEL {

// T: of the image's elements, or a number as large for the nearest pixel; P: of positions; S: taps on each axis, one or
// two; C: channels next to each other, one if it is a plane; 0: up to four planes.
template <class T, class P, int S, template <class> class Fold, int C>
struct PlaneSampler {
  static constexpr int blocks = strip_pixels / eight, step = C > 1 ? C : 1;

  Plane<P, Fold> plane;
  const T* image;
  Index image_channel, out_channel;
  int plane_count;
  int last, last_quad;  // of packed pixels, the first taps whose reading, or four elements, end with the image
  bool far;             // the image is larger than what nearer caches hold
  T dark[streamed];     // what pixels are all of whose taps are outside
  bool fills;           // taps outside have the fill value
  float fill[streamed];

  PlaneSampler(const SampleJob& job, int64_t n)
      : plane(job),
        image(static_cast<const T*>(job.input.data) + n * job.input.batch),
        image_channel(job.input.channel),
        out_channel(job.output.channel),
        plane_count(int(job.channels)),
        fills(job.fill) {
    if constexpr (C > 1 && S == 2) {
      last_quad = int(end_of_image(job, C) - 4);
      last = last_quad + 4 - (plane.row > 0 ? plane.row : 0) - PackedPixels<T, C>::in_row;
    }
    constexpr int64_t worthwhile = 1 << 21;  // bytes
    far = job.size[0] * job.size[1] * job.channels * int64_t(sizeof(T)) >= worthwhile;
    for (int c = 0; c < streamed; ++c) {
      dark[c] = c < plane_count ? element_outside<T>(job, c, 1.0f) : T();
      fill[c] = fills && c < plane_count ? float(job.fill[c]) : 0.0f;
    }
  }

  PYSTN_HD int planes() const { return C ? 1 : plane_count; }

  // Pixels of a row in blocks of eight, the last of which may have some of those before.
  struct Placed {
    alignas(64) int first[strip_pixels];  // offsets of first taps; of the nearest pixel 0 if it is outside
    EightInts at_x[blocks], at_y[blocks];
    Phase<P> x[blocks], y[blocks];
    unsigned odd, dark;             // bits of blocks that have taps outside, and no others
    unsigned char outside[blocks];  // and of pixels
    int64_t ahead;                  // from offsets to those of pixels that are read later, or 0
  };
  static PYSTN_HD int begin_of(int block, int count) {
    return block * eight + eight <= count ? block * eight : count < eight ? 0 : count - eight;
  }

  PYSTN_HD void place_linear(const EightOf<P>& x, const EightOf<P>& y, int block, int begin, Placed& placed) const {
    const LinearCells<P> cells(plane, plane.position(plane.by_x, x), plane.position(plane.by_y, y));
    cells.x.copy_to(placed.x[block]);
    cells.y.copy_to(placed.y[block]);
    const EightInts first = cells.first(plane, step);
    number_to(placed.first + begin, first);
    if (!cells.odd(plane) && !(C > 1 && signs_of(last - first))) return;
    placed.odd |= 1u << block;
    if (cells.none(plane)) placed.dark |= 1u << block;
    placed.at_x[block] = cells.at_x;
    placed.at_y[block] = cells.at_y;
  }

  PYSTN_HD void place_nearest(const EightOf<P>& x, const EightOf<P>& y, int block, int begin, Placed& placed) const {
    const EightInts there_x = from_origin(integers(plane.position(plane.by_x, x)), plane.origin_x);
    const EightInts there_y = from_origin(integers(plane.position(plane.by_y, y)), plane.origin_y);
    const EightInts at_x = plane.around(there_x, plane.width), at_y = plane.around(there_y, plane.height);
    const EightInts first =
        plane.column == 1 ? offset_of(plane, at_x, at_y, 1) : offset_of(plane, at_x, at_y, plane.column);
    const EightInts outside = (at_x > plane.width - 1) | (at_y > plane.height - 1) | at_x | at_y;
    const int bits = signs_of(outside);
    placed.odd |= unsigned(bits != 0) << block;
    placed.outside[block] = (unsigned char)bits;
    number_to(placed.first + begin, first & ~(outside >> 31));
  }

  template <class From>
  static PYSTN_APART void place(const PlaneSampler& sampler, const From& coordinates, int start, int count,
                                Placed& placed) {
    const PlaneSampler here = sampler;
    const From from = coordinates;
    placed.odd = placed.dark = 0;
    for (int block = 0; block * eight < count; ++block) {
      const int begin = begin_of(block, count);
      EightOf<P> x, y;
      if (count < eight)
        from.load_some(start, count, x, y);
      else
        from.load(start + begin, x, y);
      if constexpr (S == 1)
        here.place_nearest(x, y, block, begin, placed);
      else
        here.place_linear(x, y, block, begin, placed);
    }
  }

  // Asks for what is read as many pixels on, if these lead straight from the ones placed.
  PYSTN_HD void prefetch(const Placed& placed, int i) const {
    if (!placed.ahead) return;
    for (int c = 0; c < planes(); ++c) {
      const int64_t at = placed.first[i] + placed.ahead;
      const uintptr_t address = reinterpret_cast<uintptr_t>(image + c * image_channel) + uintptr_t(at) * sizeof(T);
      __builtin_prefetch(reinterpret_cast<const char*>(address));
    }
  }
  void look_ahead(Placed& placed, int count) const {
    const unsigned ends = 1u | 1u << (count - 1) / eight;
    placed.ahead = 0;
    if (far && count >= strip_columns && !(placed.odd & ends))
      placed.ahead = (int64_t(placed.first[count - 1]) - placed.first[0]) * strip_pixels / count;
  }

  // Eight pixels to memory, or fewer that are a row.
  template <class Put>
  static PYSTN_HD void put_some(T* to, int count, Put&& put) {
    if (count >= eight) return put(to);
    T some[eight * step];
    put(some);
    __builtin_memcpy(to, some, count * step * sizeof(T));
  }
  static PYSTN_HD void store(T* to, Eight x, int count) {
    put_some(to, count, [&](T* eight_of) __attribute__((always_inline)) { store_eight(eight_of, x); });
  }
  // Eight pixels, or fewer that are a row.
  PYSTN_HD void put_linear(const Placed& placed, int block, int begin, int count, T* out) const {
    const PairWeights weights({placed.x[block], placed.y[block]});
    const T* from = image;
    if constexpr (C > 1)
      return put_some(out, count, [&](T* to) __attribute__((always_inline)) {
        PackedPixels<T, C>::put(from, plane.row, placed.first + begin, weights, to);
      });
    for (int c = 0; c < planes(); ++c, from += image_channel, out += out_channel) {
      Eight tap[2][2];
      read_pairs(from, placed.first + begin, tap[0]);
      read_pairs(from + plane.row, placed.first + begin, tap[1]);
      store(out, weights.sum(tap), count);
    }
  }

  // All of which are outside.
  void put_dark(int count, T* out) const {
    const int pixels = count < eight ? count : eight;
    for (int c = 0; c < planes(); ++c, out += out_channel)
      for (int l = 0; l < pixels * step; ++l) out[l] = dark[C > 1 ? l % C : c];
  }

  // The same where some taps are outside.
  PYSTN_APART void put_odd(const Placed& placed, int block, int count, T* out) const {
    using Taps = std::conditional_t<(C > 1), OddTaps, OddPairs>;
    const Taps taps(plane, placed.at_x[block], placed.at_y[block]);
    const LinearWeights of_axes(placed.x[block], placed.y[block]);
    const PairWeights weights(PairWeights(of_axes), taps);
    const Eight outside = fills ? share_outside(taps, of_axes) : Eight{};
    if constexpr (C > 1)
      return put_some(out, count,
                      [&](T* to) { PackedPixels<T, C>::put_odd(image, taps, weights, outside, fill, last_quad, to); });
    else
      put_odd_planes(taps, weights, outside, count, out);
  }
  void put_odd_planes(const OddPairs& pairs, const PairWeights& weights, Eight outside, int count, T* out) const {
    const T* from = image;
    for (int c = 0; c < planes(); ++c, from += image_channel, out += out_channel) {
      Eight tap[2][2] = {};
      for (int j = 0; j < 2; ++j) pairs.read(from, j, tap[j]);
      const Eight sum = weights.sum(tap);
      store(out, outside == Eight{} ? sum : sum + outside * fill[c], count);
    }
  }

  // Other rows ask for other pixels, by their `lane`.
  void put_nearest(const Placed& placed, int count, int lane, T* out) const {
    for (int i = lane; i < count; i += eight) prefetch(placed, i);
    if constexpr (C > 1) {
      copy_pixels<C>(image, placed.first, nullptr, true, count, dark, out, C);
      return for_each_odd(placed, count, [&](int begin, int bits) {
        for_each_bit(bits, [&](int l) { copy_pixel<C>(dark, out + (begin + l) * C); });
      });
    }
    const T* from = image;
    for (int c = 0; c < planes(); ++c, from += image_channel, out += out_channel) {
      copy_elements(from, placed.first, count, out);
      for_each_odd(placed, count, [&](int begin, int bits) {
        if (count >= eight) return put_where(bits, dark[c], out + begin);
        for_each_bit(bits, [&](int l) { out[l] = dark[c]; });
      });
    }
  }
  // Calls body with where blocks that have pixels outside begin, and with the bits of these.
  template <class Body>
  static PYSTN_HD void for_each_odd(const Placed& placed, int count, Body&& body) {
    const unsigned there = count < eight ? (1u << count) - 1 : 255;
    for (unsigned left = placed.odd; left; left &= left - 1) {
      const int block = lowest(left);
      body(begin_of(block, count), int(placed.outside[block] & there));
    }
  }
  template <class Body>
  static PYSTN_HD void for_each_bit(unsigned bits, Body&& body) {
    for (; bits; bits &= bits - 1) body(lowest(bits));
  }
  // Two offsets are one load.
  static PYSTN_APART void copy_elements(const T* __restrict from, const int* __restrict first, int count,
                                        T* __restrict out) {
    int i = 0;
#pragma GCC unroll 4
    for (; i + 2 <= count; i += 2) {
      const int64_t two = number_at<int64_t>(first + i);
      out[i] = from[int(two)];
      out[i + 1] = from[two >> 32];
    }
    if (i < count) out[i] = from[first[i]];
  }

  static PYSTN_APART void put(const PlaneSampler& sampler, const Placed& placed, int count, int lane, T* out) {
    const PlaneSampler here = sampler;
    for (int block = 0; block * eight < count; ++block) {
      const int begin = begin_of(block, count);
      if (placed.dark >> block & 1)
        sampler.put_dark(count, out + begin * step);
      else if (placed.odd >> block & 1)
        sampler.put_odd(placed, block, count, out + begin * step);
      else
        here.put_linear(placed, block, begin, count, out + begin * step);
      here.prefetch(placed, begin + lane);
    }
  }

  // So many pixels of a row; its last ones twice, if they are fewer than eight of a longer row.
  template <class From>
  void put_row(const From& from, int count, int lane, T* to) const {
    Placed placed;
    for (int start = 0; start < count; start += strip_pixels) {
      if (count >= eight && start > count - eight) start = count - eight;
      const int some = count - start < strip_pixels ? count - start : strip_pixels;
      place(*this, from, start, some, placed);
      look_ahead(placed, some);
      if constexpr (S == 1)
        put_nearest(placed, some, lane, to + start * step);
      else
        put(*this, placed, some, lane, to + start * step);
    }
  }

  void put_strip(const SampleJob& job, int64_t n, const Span& strip, T* to, Index to_row) const {
    if (is_stored(job)) {
      const Index row = row_stride(job, job.grid.axis);
      const P* from = static_cast<const P*>(job.grid.data) + n * job.grid.batch + offset_of(job, job.grid.axis, strip);
      for (int r = 0; r < strip.rows; ++r, from += row, to += to_row)
        put_row(StoredCoordinates<P>{from}, strip.count, int(strip.row + r) % eight, to);
      return;
    }
    for (int i = 0; i < strip.count; i += strip_pixels) {
      const int count = strip.count - i < strip_pixels ? strip.count - i : strip_pixels;
      const Span some{strip.outer, strip.row, strip.column + i, strip.rows, count};
      for_each_made_row<P, strip_pixels>(job, n, some, [&](int r, const auto& from) {
        put_row(from, count, int(strip.row + r) % eight, to + r * to_row + i * step);
      });
    }
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job), of_image = chunk % chunks_per_image(job);
    PlaneSampler sampler(job, n);
    T* const output = static_cast<T*>(job.output.data) + n * job.output.batch;
    const Index row = row_stride(job, job.output.axis), channel = sampler.out_channel;
    if (!job.streams) {
      const auto put = [&](const Span& strip) {
        sampler.put_strip(job, n, strip, output + offset_of(job, job.output.axis, strip), row);
      };
      if (job.columns >= strip_pixels || !is_flat(job))
        return for_each_block(job, of_image, strip_rows, int64_t(1) << 30, put);
      return for_each_block(job, of_image, job.chunk_rows, job.columns, [&](const Span& rows) {
        put(Span{rows.outer, rows.row, rows.column, 1, rows.rows * rows.count});
      });
    }
    Stream<T, C ? 1 : streamed, strip_rows, strip_columns * step> stream(row, channel);
    sampler.out_channel = stream.channel;
    for_each_long_strip(job, of_image, [&](const Span& strip) {
      T* const there = output + offset_of(job, job.output.axis, strip);
      sampler.put_strip(job, n, strip, stream.begin(there), stream.row);
      stream.end(there, row, channel, sampler.planes(), strip.rows, strip.count * step, is_first(job, strip),
                 is_last(job, strip));
    });
    end_streams();
  }
};

// On AVX-512 tiles are of all boundaries, and no nearest pixel under those that fold has been tried here.
#if defined(__AVX512F__)
constexpr bool folds_planes = false;
#else
constexpr bool folds_planes = true;
#endif

template <class T, class P, int S, int C>
SampleChunk folded_planes(const SampleJob& job) {
  switch (Boundary(job.boundary[0])) {
    case Boundary::zeros:
    case Boundary::constant:
      return PlaneSampler<T, P, S, Zeros, C>::forward;
    case Boundary::border:
      return PlaneSampler<T, P, S, Border, C>::forward;
    default:
      if constexpr (folds_planes) return PlaneSampler<T, P, S, AnyFold, C>::forward;
      return nullptr;
  }
}
template <class T, int S, int C>
SampleChunk placed_planes(const SampleJob& job) {
  return has_wide_positions(job) ? folded_planes<T, double, S, C>(job) : folded_planes<T, float, S, C>(job);
}
// Calls body with a number as large as the elements, which the nearest pixel is a copy of.
template <class Body>
SampleChunk as_numbers(const SampleJob& job, Body&& body) {
  switch (job.input.type) {
    case Element::u8:
      return body(uint8_t());
    case Element::f32:
      return body(uint32_t());
    default:
      return body(uint16_t());
  }
}

template <class T, int S>
SampleChunk sampled_planes(const SampleJob& job) {
  return job.channels == 1 ? placed_planes<T, S, 1>(job) : placed_planes<T, S, 0>(job);
}

#if !defined(__AVX512F__)
template <class T, int S>
SampleChunk packed_channels(const SampleJob& job) {
  switch (job.channels) {
    case 2:
      return placed_planes<T, S, 2>(job);
    case 3:
      return placed_planes<T, S, 3>(job);
    case 4:
      return placed_planes<T, S, 4>(job);
    default:
      return nullptr;
  }
}

// The body for a forward job on few channels next to each other, or null.
inline SampleChunk packed_pixels(const SampleJob& job) {
  const Index channels = job.channels;
  if (job.output.type != job.input.type || !fits_eight_lanes(job, folds_planes)) return nullptr;
  if (job.input.channel != 1 || job.output.channel != 1 || column_stride(job, job.output.axis) != channels)
    return nullptr;
  // What is outside reads 0, and the fill value where the coordinate is no number.
  if (job.fill && Boundary(job.boundary[0]) == Boundary::zeros) return nullptr;
  if (Mode(job.kernel[0].mode) == Mode::nearest) {
    return as_numbers(job, [&](auto number) { return packed_channels<decltype(number), 1>(job); });
  }
  if (job.input.axis[0] != channels || job.size[0] < 2) return nullptr;
  if (job.input.type == Element::u8) return packed_channels<Byte, 2>(job);
  return job.input.type == Element::f32 ? packed_channels<float, 2>(job) : nullptr;
}
#endif

// The body for a forward job on such planes, or null if another has to do it.
inline SampleChunk planes(const SampleJob& job) {
  if (job.output.type != job.input.type || !fits_planes(job, folds_planes)) return nullptr;
  // What is outside reads 0, and the fill value where the coordinate is no number.
  if (job.fill && Boundary(job.boundary[0]) == Boundary::zeros) return nullptr;
#if defined(__AVX512F__)
  if (has_wide_positions(job)) return nullptr;
#endif
  const Mode mode = Mode(job.kernel[0].mode);
  if (mode == Mode::nearest) {
    return as_numbers(job, [&](auto number) { return sampled_planes<decltype(number), 1>(job); });
  }
#if !defined(__AVX512F__)
  if (!fits_pairs(job)) return nullptr;
  switch (job.input.type) {
    case Element::f32:
      return sampled_planes<float, 2>(job);
    case Element::f16:
      return sampled_planes<Half, 2>(job);
    case Element::bf16:
      return sampled_planes<Bfloat, 2>(job);
    case Element::u8:
      return sampled_planes<Byte, 2>(job);
    case Element::i16:
      return sampled_planes<short, 2>(job);
    case Element::u16:
      return sampled_planes<unsigned short, 2>(job);
    default:
      return nullptr;
  }
#else
  return nullptr;
#endif
}

}  // namespace pystn::PYSTN_LEVEL
#endif
