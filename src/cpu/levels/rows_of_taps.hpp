// Rows of taps, which are neighbours in memory: read into a vector for each tap, a pixel a lane, and added to. For
// blocks.hpp.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "vectors.hpp"

namespace pystn::PYSTN_LEVEL {

#if defined(__SSE2__)
#if defined(__AVX512F__)
#define PYSTN_WIDE(operation) _mm512_##operation
using WideFloat = __m512;
using WideDouble = __m512d;
#elif defined(__AVX__)
#define PYSTN_WIDE(operation) _mm256_##operation
using WideFloat = __m256;
using WideDouble = __m256d;
#else
#define PYSTN_WIDE(operation) _mm_##operation
using WideFloat = __m128;
using WideDouble = __m128d;
#endif

// A vector of the quarters part(0), part(1), ...
template <class Part>
PYSTN_HD WideFloat join(Part&& part) {
#if defined(__AVX512F__)
  const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(part(0)), part(1), 1);
  const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(part(2)), part(3), 1);
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
#elif defined(__AVX__)
  return _mm256_insertf128_ps(_mm256_castps128_ps256(part(0)), part(1), 1);
#else
  return part(0);
#endif
}

PYSTN_HD WideFloat low_pairs(WideFloat a, WideFloat b) {
  return PYSTN_WIDE(castpd_ps)(PYSTN_WIDE(unpacklo_pd)(PYSTN_WIDE(castps_pd)(a), PYSTN_WIDE(castps_pd)(b)));
}
PYSTN_HD WideFloat high_pairs(WideFloat a, WideFloat b) {
  return PYSTN_WIDE(castpd_ps)(PYSTN_WIDE(unpackhi_pd)(PYSTN_WIDE(castps_pd)(a), PYSTN_WIDE(castps_pd)(b)));
}
#endif

// tap[k] = element k of the rows of S that begin at offsets `first` of a block's lanes.
template <int S>
struct Rows {
  template <class R, class V>
  static PYSTN_HD void read(const R* from, const int* first, V (&tap)[S]) {
    alignas(vector_bytes) R buffer[S][Vectors<R>::lanes];
    for (int k = 0; k < S; ++k) {
      for (int l = 0; l < Vectors<R>::lanes; ++l) buffer[k][l] = from[first[l] + k];
      __builtin_memcpy(&tap[k], buffer[k], sizeof tap[k]);
    }
  }
};

#if defined(__SSE2__)
template <>
struct Rows<2> {
  template <class V>
  static PYSTN_HD void read(const float* from, const int* first, V (&tap)[2]) {
    // Pairs of two pixels in each quarter of `a`, of the next two in `b`.
    const auto pairs = [&](int l) {
      const __m128 one = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + first[l])));
      return _mm_loadh_pi(one, reinterpret_cast<const __m64*>(from + first[l + 1]));
    };
    const WideFloat a = join([&](int q) { return pairs(4 * q); }), b = join([&](int q) { return pairs(4 * q + 2); });
    tap[0] = V(PYSTN_WIDE(shuffle_ps)(a, b, 0x88));
    tap[1] = V(PYSTN_WIDE(shuffle_ps)(a, b, 0xdd));
  }
  template <class V>
  static PYSTN_HD void read(const double* from, const int* first, V (&tap)[2]) {
    const auto pair = [&](int l) { return _mm_castpd_ps(_mm_loadu_pd(from + first[l])); };
    const WideFloat a = join([&](int q) { return pair(2 * q); }), b = join([&](int q) { return pair(2 * q + 1); });
    tap[0] = V(low_pairs(a, b));
    tap[1] = V(high_pairs(a, b));
  }
};

template <>
struct Rows<4> {
  template <class V>
  static PYSTN_HD void read(const float* from, const int* first, V (&tap)[4]) {
    transpose([&](int l) { return _mm_loadu_ps(from + first[l]); }, tap);
  }
  // The same of rows(l).
  template <class RowOf, class V>
  static PYSTN_HD void transpose(RowOf&& rows, V (&tap)[4]) {
    WideFloat row[4];  // of pixels 0, 4, 8, 12; 1, 5, ...
    for (int j = 0; j < 4; ++j) row[j] = join([&](int q) { return rows(4 * q + j); });
    const WideFloat a = PYSTN_WIDE(unpacklo_ps)(row[0], row[1]), b = PYSTN_WIDE(unpacklo_ps)(row[2], row[3]);
    const WideFloat c = PYSTN_WIDE(unpackhi_ps)(row[0], row[1]), d = PYSTN_WIDE(unpackhi_ps)(row[2], row[3]);
    tap[0] = V(low_pairs(a, b));
    tap[1] = V(high_pairs(a, b));
    tap[2] = V(low_pairs(c, d));
    tap[3] = V(high_pairs(c, d));
  }
  template <class V>
  static PYSTN_HD void read(const double* from, const int* first, V (&tap)[4]) {
    V pair[2];
    for (int k = 0; k < 4; k += 2) {
      Rows<2>::read(from + k, first, pair);
      tap[k] = pair[0];
      tap[k + 1] = pair[1];
    }
  }
};
#undef PYSTN_WIDE

// Of three taps the second is read twice, so that nothing beyond the third is; of more some are read after others.
template <int S, int a, int b>
struct JoinedRows {
  template <class R, class V>
  static PYSTN_HD void read(const R* from, const int* first, V (&tap)[S]) {
    V left[a], right[b];
    Rows<a>::read(from, first, left);
    Rows<b>::read(from + S - b, first, right);
    for (int k = 0; k < a; ++k) tap[k] = left[k];
    for (int k = a; k < S; ++k) tap[k] = right[k - (S - b)];
  }
};
template <>
struct Rows<3> : JoinedRows<3, 2, 2> {};
template <>
struct Rows<6> : JoinedRows<6, 4, 2> {};
template <>
struct Rows<8> : JoinedRows<8, 4, 4> {};
#endif

// The taps of a row of one pixel: a vector, or two where vectors have other lengths.
template <class R, int S>
struct RowOf {
  static constexpr int low = S == 3 ? 2 : S == 6 ? 4 : S, high = S - low;
  typedef R Low __attribute__((vector_size(low * sizeof(R))));
  typedef R High __attribute__((vector_size((high ? high : 1) * sizeof(R))));

  // to[k] += w[k] value + dw[k] slope
  template <bool slopes>
  static PYSTN_HD void add(R* to, const R* w, R value, const R* dw, R slope) {
    add<Low, slopes>(to, w, value, dw, slope);
    if constexpr (high > 0) add<High, slopes>(to + low, w + low, value, dw + low, slope);
  }

 private:
  template <class V, bool slopes>
  static PYSTN_HD void add(R* to, const R* w, R value, const R* dw, R slope) {
    V terms, sum;
    __builtin_memcpy(&terms, w, sizeof terms);
    terms *= value;
    if constexpr (slopes) {
      V more;
      __builtin_memcpy(&more, dw, sizeof more);
      terms += more * slope;
    }
    __builtin_memcpy(&sum, to, sizeof sum);
    terms += sum;
    __builtin_memcpy(to, &terms, sizeof terms);
  }
};

}  // namespace pystn::PYSTN_LEVEL
