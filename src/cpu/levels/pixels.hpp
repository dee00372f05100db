// The forward pass of images whose pixels are few numbers next to each other: float32 or uint8, two to
// four channels, or uint8 with one; linear or with four taps.
//
// A pixel is four lanes of a vector, its channels and what follows them in memory; a vector has one,
// two or four output pixels. With one channel lanes are output pixels. Only where all taps are in the
// image, and what is read beyond them is; other pixels go the way of sampling.hpp. The sums are made in
// its order, to the same bits.
#pragma once

#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define PYSTN_PIXELS 1

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "sampling.hpp"
#include "stream.hpp"

namespace pystn::PYSTN_LEVEL {

using Byte = unsigned char;

// Four lanes for each of `pixels` pixels.
template <int pixels>
struct Quads {
  typedef float Vector __attribute__((vector_size(16 * pixels)));
};
template <int pixels>
using QuadVector = typename Quads<pixels>::Vector;

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define PYSTN_QUADS 4
#elif defined(__AVX2__)
#define PYSTN_QUADS 2
#else
#define PYSTN_QUADS 1
#endif

template <int pixels>
struct QuadOf;

// Reads four elements for each pixel, each pixel's at its own offset; spreads a weight of each pixel
// over its lanes; stores the first C lanes of each pixel.
template <>
struct QuadOf<1> {
  using V = QuadVector<1>;
  static PYSTN_HD V load(const float* from, const int* offset) {
    V v;
    __builtin_memcpy(&v, from + offset[0], sizeof v);
    return v;
  }
  static PYSTN_HD V load(const Byte* from, const int* offset) {
#if defined(__SSE2__)
    int bytes;
    __builtin_memcpy(&bytes, from + offset[0], 4);
    const __m128i zero = _mm_setzero_si128();
    const __m128i words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), zero);
    return V(_mm_cvtepi32_ps(_mm_unpacklo_epi16(words, zero)));
#else
    V v;
    for (int l = 0; l < 4; ++l) v[l] = float(from[offset[0] + l]);
    return v;
#endif
  }
  static PYSTN_HD V spread(const float* weight) { return weight[0] - V{}; }
  template <int C>
  static PYSTN_HD void store(float* to, const V& v) {
    __builtin_memcpy(to, &v, C * sizeof(float));
  }
  template <int C>
  static PYSTN_HD void store(Byte* to, const V& v) {
#if defined(__SSE2__)
    const __m128i words = _mm_packs_epi32(_mm_cvtps_epi32(__m128(v)), _mm_setzero_si128());
    const int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    __builtin_memcpy(to, &bytes, C);
#else
    for (int l = 0; l < C; ++l) Elements<Any>::store<float>(to, Type::u8, l, v[l]);
#endif
  }
};

#if PYSTN_QUADS == 2
template <>
struct QuadOf<2> {
  using V = QuadVector<2>;
  static PYSTN_HD V load(const float* from, const int* offset) {
    return V(_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + offset[0])),
                                  _mm_loadu_ps(from + offset[1]), 1));
  }
  static PYSTN_HD V load(const Byte* from, const int* offset) {
    int bytes[2];
    for (int p = 0; p < 2; ++p) __builtin_memcpy(bytes + p, from + offset[p], 4);
    return V(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_insert_epi32(_mm_cvtsi32_si128(bytes[0]), bytes[1], 1))));
  }
  static PYSTN_HD V spread(const float* weight) {
    double both;
    __builtin_memcpy(&both, weight, sizeof both);
    return V(_mm256_permutevar_ps(_mm256_castpd_ps(_mm256_set1_pd(both)), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)));
  }
  template <int C>
  static PYSTN_HD void store(float* to, const V& v) {
    const __m128 second = _mm256_extractf128_ps(__m256(v), 1);
    _mm_storeu_ps(to, _mm256_castps256_ps128(__m256(v)));
    __builtin_memcpy(to + C, &second, C * sizeof(float));
  }
  template <int C>
  static PYSTN_HD void store(Byte* to, const V& v) {
    const __m256i numbers = _mm256_cvtps_epi32(__m256(v));
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
    const int64_t bytes = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
    const int first = int(bytes), second = int(bytes >> 32);
    __builtin_memcpy(to, &first, 4);
    __builtin_memcpy(to + C, &second, C);
  }
};
#endif

#if PYSTN_QUADS == 4
template <>
struct QuadOf<4> {
  using V = QuadVector<4>;
  static PYSTN_HD V load(const float* from, const int* offset) {
    const auto pixel = [&](int p) { return _mm_loadu_ps(from + offset[p]); };
    const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(pixel(0)), pixel(1), 1);
    const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(pixel(2)), pixel(3), 1);
    return V(_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1));
  }
  static PYSTN_HD V load(const Byte* from, const int* offset) {
    int bytes[4];
    for (int p = 0; p < 4; ++p) __builtin_memcpy(bytes + p, from + offset[p], 4);
    return V(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_setr_epi32(bytes[0], bytes[1], bytes[2], bytes[3]))));
  }
  static PYSTN_HD V spread(const float* weight) {
    const __m512 four = _mm512_broadcast_f32x4(_mm_loadu_ps(weight));
    return V(_mm512_permutevar_ps(four, _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)));
  }
  template <int C>
  static PYSTN_HD void store(float* to, const V& v) {
    const __m512i packed = C == 2   ? _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0)
                           : C == 3 ? _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0, 0, 0, 0)
                                    : _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_mask_storeu_ps(to, __mmask16((1u << 4 * C) - 1), _mm512_permutexvar_ps(packed, __m512(v)));
  }
  template <int C>
  static PYSTN_HD void store(Byte* to, const V& v) {
    const __m512i numbers = _mm512_max_epi32(_mm512_cvtps_epi32(__m512(v)), _mm512_setzero_si512());
    const __m128i bytes = _mm512_cvtusepi32_epi8(numbers);
    const __m128i packed = C == 2   ? _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1)
                           : C == 3 ? _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1)
                                    : _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm_mask_storeu_epi8(to, __mmask16((1u << 4 * C) - 1), _mm_shuffle_epi8(bytes, packed));
  }
};
#endif

#if PYSTN_QUADS == 4
// Two taps in a row of each of four pixels, C channels next to each other: one load a pixel. The four
// pixels' channels are packed, as they are in the output.
template <int C>
struct PairsOf {
  using V = QuadVector<4>;
  static constexpr unsigned lanes = (1u << 4 * C) - 1;

  static PYSTN_HD __m512 two(const float* from, const int* offset) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(from + offset[0])),
                              _mm256_loadu_ps(from + offset[1]), 1);
  }
  static PYSTN_HD __m512 two(const Byte* from, const int* offset) {
    long long bytes[2];
    for (int p = 0; p < 2; ++p) __builtin_memcpy(bytes + p, from + offset[p], 8);
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_set_epi64x(bytes[1], bytes[0])));
  }
  template <class T>
  static PYSTN_HD void load(const T* from, const int* offset, V (&tap)[2]) {
    const __m512i first = C == 2   ? _mm512_setr_epi32(0, 1, 8, 9, 16, 17, 24, 25, 0, 0, 0, 0, 0, 0, 0, 0)
                          : C == 3 ? _mm512_setr_epi32(0, 1, 2, 8, 9, 10, 16, 17, 18, 24, 25, 26, 0, 0, 0, 0)
                                   : _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    const __m512 low = two(from, offset), high = two(from, offset + 2);
    tap[0] = V(_mm512_permutex2var_ps(low, first, high));
    tap[1] = V(_mm512_permutex2var_ps(low, _mm512_add_epi32(first, _mm512_set1_epi32(C)), high));
  }
  static PYSTN_HD V spread(const float* weight) {
    const __m512i pixel = C == 2   ? _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0)
                          : C == 3 ? _mm512_setr_epi32(0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0, 0, 0, 0)
                                   : _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return V(_mm512_permutexvar_ps(pixel, _mm512_castps128_ps512(_mm_loadu_ps(weight))));
  }
  static PYSTN_HD void store(float* to, const V& v) { _mm512_mask_storeu_ps(to, __mmask16(lanes), __m512(v)); }
  static PYSTN_HD void store(Byte* to, const V& v) {
    const __m512i numbers = _mm512_max_epi32(_mm512_cvtps_epi32(__m512(v)), _mm512_setzero_si512());
    _mm_mask_storeu_epi8(to, __mmask16(lanes), _mm512_cvtusepi32_epi8(numbers));
  }
};
constexpr bool has_pairs = true;
#else
constexpr bool has_pairs = false;
#endif

// Elements of an image of C channels that are read from the first tap of a row on, S taps `column` apart.
inline int64_t read_in_row(int64_t channels, int taps, int64_t column) {
  const int64_t by_taps = (taps - 1) * column + (channels == 1 ? 1 : 4);
  return has_pairs && taps == 2 && channels > 1 && by_taps < 8 ? 8 : by_taps;
}

// The taps of a run, S on each axis, as the loops over its pixels want them. Values alone are wanted:
// of the kernels that most calls have, it is a shorter way than that of Run, to the same bits.
template <class T, int S>
struct PixelTaps {
  static constexpr bool bytes = sizeof(T) == 1, flat = Sampler<T, float, S, 2>::flat && !bytes;

  alignas(64) int first[strip_columns];                        // offset of the first tap
  alignas(64) float w[2][S][strip_columns];                    // weights on x and y
  alignas(64) float product[flat ? S * S : 1][strip_columns];  // of the two, in their place
  alignas(64) Flag plain[strip_columns];                       // all that is read is in the image
  alignas(64) Flag dark[strip_columns];                        // the pixel is 0: no tap is in the image
  Flag all;                                                    // every pixel is plain
  int last;                                                    // first tap of a pixel whose reading ends with the image
  bool known, zeros;
  Run<float, 2> run;

  explicit PixelTaps(const SampleJob& job) {
    const int64_t column = job.input.axis[0], row = job.input.axis[1];
    const int64_t end = (row > 0 ? (job.size[1] - 1) * row : 0) + (job.size[0] - 1) * column + job.channels;
    last = int(end - (row > 0 ? (S - 1) * row : 0) - read_in_row(job.channels, S, column));
    known = Cutoff(job.cutoff) == Cutoff::none && (S == 4 || job.boundary[0] == job.boundary[1]);
    zeros = !job.fill;
    for (int a = 0; a < 2; ++a) {
      const Boundary boundary = Boundary(job.boundary[a]);
      known = known && (S == 2 || Mode(job.kernel[a].mode) == Mode::cubic);
      zeros = zeros && (boundary == Boundary::zeros || boundary == Boundary::constant);
    }
  }

  PYSTN_APART void place(const SampleJob& job, int64_t n, const Span& span) {
    if (!known || !place_known(job, n, span)) place_any(job, n, span);
  }

 private:
  bool place_known(const SampleJob& job, int64_t n, const Span& span) {
    alignas(64) float x[strip_columns], y[strip_columns];
    load_coordinates(job, n, span, 0, x);
    load_coordinates(job, n, span, 1, y);
    bool within = true;
    if constexpr (S == 2) {
      with_fold(Boundary(job.boundary[0]), [&](auto fold) {
        using By = Projection<float, decltype(fold)::template Fold>;
        By by_x(job, 0), by_y(job, 1);
        by_x.origin = by_y.origin = 0.0f;
        if constexpr (By::Folding::periodic)
          for (int i = 0; i < span.count; ++i)
            within = within & by_x.fold.within(by_x.normalize(x[i])) & by_y.fold.within(by_y.normalize(y[i]));
        if (!within) return;
        const auto position = [](const By& by, float at) __attribute__((always_inline)) {
          float factor;
          return by.template operator()<false>(at, factor);
        };
        place_all(job, span.count, x, y, Linear<float>{}, Linear<float>{}, by_x, by_y, position);
      });
    } else {
      // Taps that the boundary moves are not plain: here it is enough that positions are small numbers.
      struct By {
        Normalization<float> normalize;
        DroppedTaps bounds;
        By(const SampleJob& job, int a)
            : normalize(Normalization<float>::of(Coordinates(job.coordinates), job.full[a])), bounds{job.full[a]} {}
      };
      const auto position = [](const By& by, float at) __attribute__((always_inline)) {
        const float p = by.normalize(at);
        return by.bounds.reduce(is_finite(p) ? p : outside<float>() - float(S));
      };
      place_all(job, span.count, x, y, Cubic<float>{float(job.kernel[0].parameter)},
                Cubic<float>{float(job.kernel[1].parameter)}, By(job, 0), By(job, 1), position);
    }
    return within;
  }

  template <class Kernel, class By, class Position>
  PYSTN_APART void place_all(const SampleJob& job, int count, const float* __restrict x, const float* __restrict y,
                             const Kernel& kernel_x, const Kernel& kernel_y, const By& by_x, const By& by_y,
                             const Position& position) {
    const int column = int(job.input.axis[0]), row = int(job.input.axis[1]);
    const int width = int(job.size[0]), height = int(job.size[1]), end = last;
    const int before_x = int(job.origin[0]) + (S - 1) / 2, before_y = int(job.origin[1]) + (S - 1) / 2;
    const Flag dims = zeros;
    Flag every = 1;
    for (int i = 0; i < count; ++i) {
      float wx[S], wy[S];
      const int cx = int(weigh_taps<float>(kernel_x, position(by_x, x[i]), wx, nullptr, nullptr)) - before_x;
      const int cy = int(weigh_taps<float>(kernel_y, position(by_y, y[i]), wy, nullptr, nullptr)) - before_y;
      const int offset = cy * row + cx * column;
      Flag inside =
          Flag(cx >= 0) & Flag(cx <= width - S) & Flag(cy >= 0) & Flag(cy <= height - S) & Flag(offset <= end);
      dark[i] = dims & (Flag(cx <= -S) | Flag(cx >= width) | Flag(cy <= -S) | Flag(cy >= height));
      for (int k = 0; S > 2 && !bytes && k < S; ++k)  // what is not read may be no number
        inside &= Flag(!is_idle(wx[k], 0.0f, 0.0f)) & Flag(!is_idle(wy[k], 0.0f, 0.0f));
      if constexpr (flat) {
        for (int k = 0; k < S * S; ++k) product[k][i] = wx[k % S] * wy[k / S];
      } else {
        for (int k = 0; k < S; ++k) w[0][k][i] = wx[k], w[1][k][i] = wy[k];
      }
      first[i] = offset;
      plain[i] = inside;
      every &= inside;
    }
    all = every;
  }

  void place_any(const SampleJob& job, int64_t n, const Span& span) {
    run.place<0>(job, n, span);
    const AxisTable<float>&x = run.axis[0], &y = run.axis[1];
    const int column = int(job.input.axis[0]), row = int(job.input.axis[1]);
    all = true;
    for (int i = 0; i < span.count; ++i) {
      const Flag adjacent = x.adjacent[i] & y.adjacent[i] & Flag(!run.cut[i]);
      first[i] = adjacent ? y.first[i] * row + x.first[i] * column : 0;
      all &= plain[i] = adjacent & Flag(first[i] <= last);
      dark[i] = false;
      for (int k = 0; k < S; ++k) {
        w[0][k][i] = x.w[x.entry(i, k)];
        w[1][k][i] = y.w[y.entry(i, k)];
      }
      for (int k = 0; flat && k < S * S; ++k) product[k][i] = w[0][k % S][i] * w[1][k / S][i];
    }
  }
};

// The general way, for some pixels of a run: borders, the fill value, the end of the image. E and S as
// there: for Any no number of taps is known, and each channel sums axis by axis.
template <class E, int S, class T>
PYSTN_APART void sample_others(const SampleJob& job, int64_t n, const Span& span, const Flag* other, Run<float, 2>& run,
                               T* out, Index step) {
  using General = Sampler<E, float, S, 2>;
  const typename General::Image image = General::image_of(job.input, n);
  typename General::template FlatTaps<false> products;
  run.place<0>(job, n, span);
  for (int i = 0; i < span.count; ++i) {
    if (!other[i]) continue;
    const float filled = !job.fill ? 0.0f : run.cut[i] ? 1.0f : run.outside(job, i, 0).value;
    if (General::flat) products.place(run, i, image.stride);
    for (int64_t c = 0; c < job.channels; ++c) {
      float value = 0.0f;
      if (!run.cut[i])
        value = General::flat ? products.gather(image, c, products.weight)
                              : General::template jet<0>(image, run, i, c).value;
      if (filled != 0.0f) value += filled * float(job.fill[c]);
      General::E::template store<float>(out, type_of(job.output.type), i * step + c, value);
    }
  }
}

// T: of the image's elements; C channels; S taps on each axis.
template <class T, int S, int C>
struct PixelSampler {
  static constexpr bool bytes = PixelTaps<T, S>::bytes, flat = PixelTaps<T, S>::flat;

  template <int pixels>
  static PYSTN_HD QuadVector<pixels> value(const T* image, int column, int row, const PixelTaps<T, S>& taps, int i) {
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
  static PYSTN_HD QuadVector<4> value_of_pairs(const T* image, int row, const PixelTaps<T, 2>& taps, int i) {
    using P = PairsOf<C>;
    using V = QuadVector<4>;
    V upper[2], lower[2];
    P::load(image, taps.first + i, upper);
    P::load(image + row, taps.first + i, lower);
    if constexpr (flat) {
      V sum = P::spread(taps.product[0] + i) * upper[0];
      sum += P::spread(taps.product[1] + i) * upper[1];
      sum += P::spread(taps.product[2] + i) * lower[0];
      sum += P::spread(taps.product[3] + i) * lower[1];
      return sum;
    } else {
      const V w0 = P::spread(taps.w[0][0] + i), w1 = P::spread(taps.w[0][1] + i);
      V sum{};
      sum += (upper[0] * w0 + upper[1] * w1) * P::spread(taps.w[1][0] + i);
      sum += (lower[0] * w0 + lower[1] * w1) * P::spread(taps.w[1][1] + i);
      return sum;
    }
  }
#endif

  // Plain pixels from i to `end` of a run.
  static PYSTN_HD void put_plain(const SampleJob& job, const T* image, const PixelTaps<T, S>& taps, int i, int end,
                                 T* out, Index step) {
    const int column = int(job.input.axis[0]), row = int(job.input.axis[1]);
    if constexpr (C == 1) {
      put_bytes(image, row, taps, i, end, out, step);
    } else {
#if PYSTN_QUADS == 4
      if constexpr (S == 2)
        if (step == C && column == C)
          for (; i + 4 <= end; i += 4) PairsOf<C>::store(out + i * C, value_of_pairs(image, row, taps, i));
#endif
      if (step == C)
        for (; i + PYSTN_QUADS <= end; i += PYSTN_QUADS)
          QuadOf<PYSTN_QUADS>::template store<C>(out + i * C, value<PYSTN_QUADS>(image, column, row, taps, i));
      for (; i < end; ++i) QuadOf<1>::template store<C>(out + i * step, value<1>(image, column, row, taps, i));
    }
  }

  // One channel: rows of taps are collected as integers, byte after byte.
  static PYSTN_HD void put_bytes(const T* image, int row, const PixelTaps<T, S>& taps, int begin, int end, T* out,
                                 Index step) {
    using Bytes = unsigned int;
    alignas(64) Bytes rows[S][strip_columns];
    alignas(64) Byte values[strip_columns];
    for (int j = 0; j < S; ++j)
      for (int i = begin; i < end; ++i) {
        rows[j][i] = 0;
        __builtin_memcpy(&rows[j][i], image + taps.first[i] + int64_t(j) * row, S);
      }
    for (int i = begin; i < end; ++i) {
      const auto tap = [&](int j, int k) { return float(int(rows[j][i] >> 8 * k & 255)); };
      float sum = 0.0f;
      for (int j = 0; j < S; ++j) {
        float inner = 0.0f;
        for (int k = 0; k < S; ++k) inner += tap(j, k) * taps.w[0][k][i];
        sum += inner * taps.w[1][j][i];
      }
      values[i] = Byte(int(rounded_between(0.0f, sum, 255.0f)));
    }
    for (int i = begin; i < end; ++i) out[i * step] = values[i];
  }

  // Asks for what strips to the right will read, twice as far from a run as its end is from its beginning:
  // each run of a strip for some of it.
  static void prefetch(const SampleJob& job, const Span& span, const T* image, const PixelTaps<T, S>& taps) {
    constexpr int64_t worthwhile = 1 << 18;  // bytes of images that nearer caches do not hold
    if (span.count < strip_columns || job.size[0] * job.size[1] * C * int64_t(sizeof(T)) < worthwhile) return;
    constexpr int share = strip_columns / strip_rows;
    const int begin = int(span.row % strip_rows) * share;
    const int64_t ahead = 2 * (int64_t(taps.first[strip_columns - 1]) - taps.first[0]);
    for (int i = begin; i < begin + share; i += 2) {
      const uintptr_t at = reinterpret_cast<uintptr_t>(image) + uintptr_t(taps.first[i] + ahead) * sizeof(T);
      __builtin_prefetch(reinterpret_cast<const char*>(at), 0, 2);
    }
  }

  // Writes the samples of a run, `step` apart.
  static void put_run(const SampleJob& job, int64_t n, const Span& span, const T* image, PixelTaps<T, S>& taps, T* out,
                      Index step) {
    Flag other[strip_columns];
    taps.place(job, n, span);
    prefetch(job, span, image, taps);
    int begin = span.count, end = 0;  // of the others
    for (int i = 0, next; i < span.count; i = next) {
      next = taps.all ? span.count : i + 1;
      other[i] = false;
      if (taps.plain[i]) {
        for (; next < span.count && taps.plain[next]; ++next) other[next] = false;
        put_plain(job, image, taps, i, next, out, step);
      } else if (taps.dark[i]) {
        for (int c = 0; c < C; ++c) out[i * step + c] = T(0);
      } else {
        other[i] = true;
        begin = begin < i ? begin : i;
        end = next;
      }
    }
    if (begin >= end) return;
    const Span others{span.outer, span.row, span.column + begin, 1, end - begin};
    bytes ? sample_others<Any, 0>(job, n, others, other + begin, taps.run, out + begin * step, step)
          : sample_others<float, S>(job, n, others, other + begin, taps.run, out + begin * step, step);
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const T* const image = static_cast<const T*>(job.input.data) + n * job.input.batch;
    T* const output = static_cast<T*>(job.output.data) + n * job.output.batch;
    const Index step = column_stride(job, job.output.axis), row = row_stride(job, job.output.axis);
    const bool streams = job.streams && step == C;
    PixelTaps<T, S> taps(job);
    Stream<T, 1, strip_rows, strip_columns * C> stream(row, 0);
    for_each_strip(job, chunk % chunks_per_image(job), [&](const Span& strip) {
      T* const there = output + offset_of(job, job.output.axis, strip);
      T* const here = streams ? stream.begin(there) : there;
      const Index line = streams ? stream.row : row;
      for_each_run(job, strip, [&](const Span& span) {
        put_run(job, n, span, image, taps, here + (span.row - strip.row) * line + (span.column - strip.column) * step,
                step);
      });
      if (streams) stream.end(there, row, 0, 1, strip.rows, strip.count * C, is_first(job, strip), is_last(job, strip));
    });
    if (streams) end_streams();
  }
};

template <class T, int C>
SampleChunk sampled_pixels(const SampleJob& job) {
  return job.kernel[0].taps == 2 ? PixelSampler<T, 2, C>::forward : PixelSampler<T, 4, C>::forward;
}

// The body for a forward job on small pixels, or null if the general one has to do it.
inline SampleChunk pixels(const SampleJob& job) {
  const bool bytes = job.input.type == Element::u8;
  if (job.ndim != 2 || !job.single || job.components != 1 || job.output.type != job.input.type) return nullptr;
  if (!bytes && job.input.type != Element::f32) return nullptr;
  if (job.mask.data || job.projected || job.output_batch != job.batch) return nullptr;
  const int taps = job.kernel[0].taps;
  if (job.kernel[1].taps != taps || (taps != 2 && taps != 4)) return nullptr;
  for (int a = 0; a < 2; ++a)
    if (taps == 2 && Mode(job.kernel[a].mode) != Mode::linear) return nullptr;
  int64_t reach = 4;
  for (int a = 0; a < 2; ++a) {
    const int64_t stride = job.input.axis[a] < 0 ? -job.input.axis[a] : job.input.axis[a];
    if (job.full[a] >= int64_t(1) << 29) return nullptr;
    reach += (job.size[a] + 256) * stride;  // first taps are at most 128 pixels outside
  }
  if (reach >= int64_t(1) << 31 || job.size[0] < 2 || job.size[1] < 2) return nullptr;
  if (job.channels == 1) return bytes && job.input.axis[0] == 1 ? sampled_pixels<Byte, 1>(job) : nullptr;
  if (job.input.channel != 1 || job.output.channel != 1 || job.input.axis[0] < job.channels) return nullptr;
  switch (job.channels) {
    case 2:
      return bytes ? sampled_pixels<Byte, 2>(job) : sampled_pixels<float, 2>(job);
    case 3:
      return bytes ? sampled_pixels<Byte, 3>(job) : sampled_pixels<float, 3>(job);
    case 4:
      return bytes ? sampled_pixels<Byte, 4>(job) : sampled_pixels<float, 4>(job);
    default:
      return nullptr;
  }
}

}  // namespace pystn::PYSTN_LEVEL
#endif
