// The forward pass of the nearest neighbour: of one tap, whose weight is 1. Elements are copied as they are, of any
// type, stride, layout and dimension; nothing is converted. What is outside has the fill value, turned into an element
// once. Values are those of sampling.hpp.
#pragma once

#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "bodies.hpp"
#include "nearest_taps.hpp"
#include "stream.hpp"

namespace pystn::PYSTN_LEVEL {

// One element of a type, from a number.
template <class T, class R>
T element_of(const SampleJob& job, R value) {
  T element;
  Elements<Any>::store<R>(&element, type_of(job.output.type), 0, value);
  return element;
}
template <class T, class R>
T element_outside(const SampleJob& job, int64_t c, R share) {
  return element_of<T>(job, job.fill && share != R(0) ? R(0) + share * R(job.fill[c]) : R(0));
}

// Bytes as the fewest numbers, of any alignment: of memcpy some compilers make vectors that have to be aligned.
template <class Number>
struct __attribute__((packed, may_alias)) Unaligned {
  Number number;
};
template <int bytes>
PYSTN_HD void copy_bytes(const char* __restrict from, char* __restrict to) {
  using Number = std::conditional_t<
      (bytes >= 8), uint64_t,
      std::conditional_t<(bytes >= 4), uint32_t, std::conditional_t<(bytes >= 2), uint16_t, uint8_t>>>;
  constexpr int some = sizeof(Number);
  reinterpret_cast<Unaligned<Number>*>(to)->number = reinterpret_cast<const Unaligned<Number>*>(from)->number;
  if constexpr (bytes > some) copy_bytes<bytes - some>(from + some, to + some);
}
template <int C, class T>
PYSTN_HD void copy_pixel(const T* __restrict from, T* __restrict to) {
  copy_bytes<C* int(sizeof(T))>(reinterpret_cast<const char*>(from), reinterpret_cast<char*>(to));
}

// Pixels of one row: where they are, which of them are in the image, and what the others are.
template <class T>
struct CopiedRow {
  const int* first;
  const Flag* plain;
  bool all;
  int count;
  const T* dark;  // of the first channels
  Index column;   // from pixel to pixel of the output
};

// Of C channels next to each other on both sides. The loops are apart: what is read here could be anything to
// compilers, which would load every pointer again for each pixel.
template <int C, class T>
PYSTN_APART void copy_pixels(const T* __restrict image, const int* __restrict first, const Flag* __restrict plain,
                             bool all, int count, const T* __restrict dark, T* __restrict out, Index column) {
  if (all && column == C)
    for (int i = 0; i < count; ++i) copy_pixel<C>(image + first[i], out + i * C);
  else
    for (int i = 0; i < count; ++i) copy_pixel<C>(plain[i] ? image + first[i] : dark, out + i * column);
}

// Of one channel. Every pixel is read, some other for those that are outside: no branch waits for what is plain.
template <class T>
PYSTN_APART void copy_channel(const T* __restrict image, const int* __restrict first, const Flag* __restrict plain,
                              bool all, int count, T dark, T* __restrict out, Index column) {
  if (column != 1) {
    for (int i = 0; i < count; ++i) out[i * column] = plain[i] ? image[first[i]] : dark;
    return;
  }
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) out[i] = image[first[i]];
  if (all) return;
  for (int i = 0; i < count; ++i) out[i] = plain[i] ? out[i] : dark;
}

constexpr int few_copied = 4;    // channels whose fill values are elements already
constexpr int many_copied = -1;  // channels next to each other, any number of them

// Of C channels next to each other, or many; or, for 0, any number anywhere.
template <int C, class R, class T>
PYSTN_APART void copy_row(const SampleJob& job, const T* image, const CopiedRow<T>& row, T* out) {
  if constexpr (C == many_copied) {
    for (int i = 0; i < row.count; ++i)
      if (row.plain[i])
        memcpy(out + i * row.column, image + row.first[i], size_t(job.channels) * sizeof(T));
      else
        for (int64_t c = 0; c < job.channels; ++c) out[i * row.column + c] = element_outside<T>(job, c, R(1));
  } else if constexpr (C > 1) {
    copy_pixels<C>(image, row.first, row.plain, row.all, row.count, row.dark, out, row.column);
  } else {
    for (int64_t c = 0; c < job.channels; ++c)
      copy_channel(image + channel_offset(job, job.input.channel, c), row.first, row.plain, row.all, row.count,
                   c < few_copied ? row.dark[c] : element_outside<T>(job, c, R(1)),
                   out + channel_offset(job, job.output.channel, c), row.column);
  }
}

// R: of the coordinates' arithmetic; T: numbers as large as the elements.
template <class R, int ND, class T>
struct CopySampler {
  using Taps = NearestTaps<R, ND>;

  // The other way: pixels of one row that are not plain may read anything.
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
            inside ? image[at + channel_offset(job, job.input.channel, c)] : element_outside<T>(job, c, share);
    }
  }

  using Copy = void (*)(const SampleJob&, const T*, const CopiedRow<T>&, T*);

  // How rows are copied, and the elements of a pixel that lie next to each other.
  static Copy copy_for(const SampleJob& job, int* width) {
    *width = 1;
    if (job.components != 1 || job.input.channel != 1 || job.output.channel != 1) return copy_row<0, R, T>;
    if (job.channels > few_copied) return copy_row<many_copied, R, T>;
    *width = job.channels > 0 ? int(job.channels) : 1;
    return job.channels == 4   ? copy_row<4, R, T>
           : job.channels == 3 ? copy_row<3, R, T>
           : job.channels == 2 ? copy_row<2, R, T>
                               : copy_row<0, R, T>;
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const T* const image = static_cast<const T*>(job.input.data) + n * job.input.batch;
    T* const output = static_cast<T*>(job.output.data) + n * job.output.batch;
    const Index column = column_stride(job, job.output.axis), row = row_stride(job, job.output.axis);
    int width;
    const Copy copy = copy_for(job, &width);
    T dark[few_copied];
    for (int c = 0; c < few_copied; ++c) dark[c] = c < job.channels ? element_outside<T>(job, c, R(1)) : T(0);
    Taps taps(job);
    Flag other[strip_columns];
    const bool streams = job.streams && column == width && job.channels == width;
    Stream<T, 1, strip_rows, strip_columns * few_copied> stream(row, 0);
    for_each_long_strip(job, chunk % chunks_per_image(job), [&](const Span& strip) {
      T* const there = output + offset_of(job, job.output.axis, strip);
      T* const here = streams ? stream.begin(there) : there;
      const Index next = streams ? stream.row : row;
      taps.place(job, n, strip);
      if constexpr (ND == 2)
        for_each_piece(strip, [&](const Span& run, int r, int i) {
          prefetch_ahead(job, run, strip.count - i, r * taps.width + i, taps, image, job.input.channel,
                         width > 1 ? 1 : job.channels, 0);
        });
      for (int r = 0; r < strip.rows; ++r) {
        const int first = r * taps.width;
        copy(job, image, {taps.first + first, taps.plain + first, taps.all != 0, strip.count, dark, column},
             here + r * next);
      }
      if (!taps.one_outside && !taps.all)
        for_each_piece(strip, [&](const Span& run, int r, int i) {
          const int first = r * taps.width + i;
          const Span others = taps.others(run, first, other);
          if (others.count <= 0) return;
          const int64_t begin = others.column - run.column;
          copy_others(job, n, others, taps.plain + first + begin, taps, image, here + r * next + (i + begin) * column,
                      column);
        });
      if (streams)
        stream.end(there, row, 0, 1, strip.rows, strip.count * width, is_first(job, strip), is_last(job, strip));
    });
    if (streams) end_streams();
  }
};

template <class R, int ND>
SampleChunk copies_of(const SampleJob& job) {
  switch (job.input.type) {
    case Element::u8:
      return CopySampler<R, ND, uint8_t>::forward;
    case Element::f32:
      return CopySampler<R, ND, uint32_t>::forward;
    case Element::f64:
      return CopySampler<R, ND, uint64_t>::forward;
    default:
      return CopySampler<R, ND, uint16_t>::forward;
  }
}

template <class R>
SampleChunk copies_in(const SampleJob& job) {
  return with_ndim(job, [&](auto ndim) { return copies_of<R, ndim.value>(job); });
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
