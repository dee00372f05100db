// The forward pass of the nearest neighbour: of one tap, whose weight is 1. Elements are copied as they are, of any
// type, stride, layout and dimension; nothing is converted. What is outside has the fill value, turned into an element
// once. Values are those of sampling.hpp.
#pragma once

#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "stream.hpp"
#include "usual_taps.hpp"

namespace pystn::PYSTN_LEVEL {

// R: of the coordinates' arithmetic.
template <class R, int ND>
struct CopySampler {
  using Taps = UsualTaps<R, 1, ND, false, false, strip_rows>;

  // One element of a type, from a number.
  template <class T>
  static T element_of(const SampleJob& job, R value) {
    T element;
    Elements<Any>::store<R>(&element, type_of(job.output.type), 0, value);
    return element;
  }
  template <class T>
  static T outside(const SampleJob& job, int64_t c, R share) {
    return element_of<T>(job, job.fill && share != R(0) ? R(0) + share * R(job.fill[c]) : R(0));
  }

  // The other way: pixels of one row that are not plain may read anything.
  template <class T>
  static PYSTN_APART void copy_others(const SampleJob& job, int64_t n, const Span& row, const Flag* plain, Taps& taps,
                                      const T* image, T* out, Index column) {
    taps.run.template place<0>(job, n, row);
    const Run<R, ND>& run = taps.run;
    for (int i = 0; i < row.count; ++i) {
      if (plain[i]) continue;
      bool inside = !run.cut[i];
      Index at = 0;
      for (int a = 0; a < ND; ++a) {
        const Index index = run.axis[a].index_of(i, 0);
        inside = inside && index >= 0;
        at += index * job.input.axis[a];
      }
      const R share = inside || !job.fill ? R(0) : run.cut[i] ? R(1) : run.outside(job, i, 0).value;
      for (int64_t c = 0; c < job.channels; ++c)
        out[i * column + channel_offset(job, job.output.channel, c)] =
            inside ? image[at + channel_offset(job, job.input.channel, c)] : outside<T>(job, c, share);
    }
  }

  // Bytes as the fewest numbers, of any alignment: of memcpy some compilers make vectors that have to be aligned.
  template <class Number>
  struct __attribute__((packed, may_alias)) Unaligned {
    Number number;
  };
  template <int bytes>
  static PYSTN_HD void copy_bytes(const char* __restrict from, char* __restrict to) {
    using Number = std::conditional_t<
        (bytes >= 8), uint64_t,
        std::conditional_t<(bytes >= 4), uint32_t, std::conditional_t<(bytes >= 2), uint16_t, uint8_t>>>;
    constexpr int some = sizeof(Number);
    reinterpret_cast<Unaligned<Number>*>(to)->number = reinterpret_cast<const Unaligned<Number>*>(from)->number;
    if constexpr (bytes > some) copy_bytes<bytes - some>(from + some, to + some);
  }
  template <int C, class T>
  static PYSTN_HD void copy_pixel(const T* __restrict from, T* __restrict to) {
    copy_bytes<C* int(sizeof(T))>(reinterpret_cast<const char*>(from), reinterpret_cast<char*>(to));
  }

  // Pixels of one row, of C channels next to each other on both sides. Apart, and so are those below: what is read here
  // could be anything to compilers, which would load every pointer again for each pixel.
  template <int C, class T>
  static PYSTN_APART void copy_pixels(const T* __restrict image, const int* __restrict first,
                                      const Flag* __restrict plain, bool all, int count, const T* __restrict dark,
                                      T* __restrict out, Index column) {
    if (all && column == C)
      for (int i = 0; i < count; ++i) copy_pixel<C>(image + first[i], out + i * C);
    else
      for (int i = 0; i < count; ++i) copy_pixel<C>(plain[i] ? image + first[i] : dark, out + i * column);
  }

  // The same of any number of channels.
  template <class T>
  static PYSTN_APART void copy_many(const SampleJob& job, const T* image, const int* first, const Flag* plain,
                                    int count, T* out, Index column) {
    for (int i = 0; i < count; ++i)
      if (plain[i])
        memcpy(out + i * column, image + first[i], size_t(job.channels) * sizeof(T));
      else
        for (int64_t c = 0; c < job.channels; ++c) out[i * column + c] = outside<T>(job, c, R(1));
  }

  // Pixels of one row and one channel.
  template <class T>
  static PYSTN_APART void copy_channel(const T* __restrict image, const int* __restrict first,
                                       const Flag* __restrict plain, bool all, int count, T dark, T* __restrict out,
                                       Index column) {
    if (all && column == 1) {
#pragma GCC unroll 8
      for (int i = 0; i < count; ++i) out[i] = image[first[i]];
    } else {
      for (int i = 0; i < count; ++i) out[i * column] = plain[i] ? image[first[i]] : dark;
    }
  }

  static constexpr int few = 4;    // channels whose fill values are elements already
  static constexpr int many = -1;  // channels next to each other, any number of them

  template <int C, class T>
  static void copy_row(const SampleJob& job, const T* image, const Taps& taps, int first, int count, const T* dark,
                       T* out, Index column) {
    if constexpr (C == many) {
      copy_many(job, image, taps.first + first, taps.plain + first, count, out, column);
    } else if constexpr (C > 1) {
      copy_pixels<C>(image, taps.first + first, taps.plain + first, taps.all != 0, count, dark, out, column);
    } else {
      for (int64_t c = 0; c < job.channels; ++c)
        copy_channel(image + channel_offset(job, job.input.channel, c), taps.first + first, taps.plain + first,
                     taps.all != 0, count, c < few ? dark[c] : outside<T>(job, c, R(1)),
                     out + channel_offset(job, job.output.channel, c), column);
    }
  }

  // C channels next to each other, or many; or, for 0, any number anywhere.
  template <int C, class T>
  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const T* const image = static_cast<const T*>(job.input.data) + n * job.input.batch;
    T* const output = static_cast<T*>(job.output.data) + n * job.output.batch;
    const Index column = column_stride(job, job.output.axis), row = row_stride(job, job.output.axis);
    T dark[few];
    for (int c = 0; c < few; ++c) dark[c] = c < job.channels ? outside<T>(job, c, R(1)) : T(0);
    Taps taps(job);
    Flag other[strip_columns];
    constexpr int width = C > 0 ? C : 1;  // elements of a pixel that are streamed
    const bool streams = job.streams && column == width && (C > 0 || job.channels == 1);
    Stream<T, 1, strip_rows, strip_columns * width> stream(row, 0);
    for_each_strip(job, chunk % chunks_per_image(job), [&](const Span& strip) {
      T* const there = output + offset_of(job, job.output.axis, strip);
      T* const here = streams ? stream.begin(there) : there;
      const Index next = streams ? stream.row : row;
      taps.place(job, n, strip);
      for (int r = 0; r < strip.rows; ++r) {
        const int first = r * taps.width;
        copy_row<C>(job, image, taps, first, strip.count, dark, here + r * next, column);
        if (taps.one_outside || taps.all) continue;
        const Span others = taps.others(strip, other, r);
        if (others.count <= 0) continue;
        const int64_t begin = others.column - strip.column;
        copy_others(job, n, others, taps.plain + first + begin, taps, image, here + r * next + begin * column, column);
      }
      if (streams)
        stream.end(there, row, 0, 1, strip.rows, strip.count * width, is_first(job, strip), is_last(job, strip));
    });
    if (streams) end_streams();
  }

  template <class T>
  static SampleChunk of_elements(const SampleJob& job) {
    if (job.components != 1 || job.input.channel != 1 || job.output.channel != 1) return forward<0, T>;
    switch (job.channels) {
      case 2:
        return forward<2, T>;
      case 3:
        return forward<3, T>;
      case 4:
        return forward<4, T>;
      default:
        return job.channels > few ? forward<many, T> : forward<0, T>;
    }
  }

  static SampleChunk body(const SampleJob& job) {
    switch (job.input.type) {
      case Element::u8:
        return of_elements<uint8_t>(job);
      case Element::f32:
        return of_elements<uint32_t>(job);
      case Element::f64:
        return of_elements<uint64_t>(job);
      default:
        return of_elements<uint16_t>(job);
    }
  }
};

template <class R>
SampleChunk copies_in(const SampleJob& job) {
  switch (job.ndim) {
    case 1:
      return CopySampler<R, 1>::body(job);
    case 2:
      return CopySampler<R, 2>::body(job);
    default:
      return CopySampler<R, 3>::body(job);
  }
}

// The body for a forward job that copies, or null if it does more.
inline SampleChunk copies(const SampleJob& job) {
  if (job.output.type != job.input.type || job.mask.data || job.projected || job.output_batch != job.batch)
    return nullptr;
  int64_t reach = 0;
  for (int a = 0; a < job.ndim; ++a) {
    const int64_t stride = job.input.axis[a] < 0 ? -job.input.axis[a] : job.input.axis[a];
    if (Mode(job.kernel[a].mode) != Mode::nearest || !is_narrow(job.full[a])) return nullptr;
    reach += job.size[a] * stride;
  }
  if (reach >= int64_t(1) << 31) return nullptr;
  return job.single ? copies_in<float>(job) : copies_in<double>(job);
}

}  // namespace pystn::PYSTN_LEVEL
