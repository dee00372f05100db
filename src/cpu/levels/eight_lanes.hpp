// Eight pixels of a plane in a vector, one a lane: their coordinates and the pairs of taps that are neighbours in a
// row, read from memory; and their values, written. For plane_taps.hpp.
#pragma once

#if defined(__GNUC__) && defined(__AVX2__) && defined(__F16C__)
#define PYSTN_EIGHT_LANES 1

#include <immintrin.h>

#include "quads.hpp"
#include "rows_of_taps.hpp"

namespace pystn::PYSTN_LEVEL {

typedef float Eight __attribute__((vector_size(32)));
typedef int EightInts __attribute__((vector_size(32)));
typedef unsigned EightBits __attribute__((vector_size(32)));
constexpr int eight = 8;

// Eight numbers of P: in one vector, or in two of them.
template <class P>
struct EightOf {
  static constexpr int parts = eight * int(sizeof(P)) / 32, lanes = eight / parts;
  typedef P Part __attribute__((vector_size(32)));
  Part part[parts];
};
template <class P>
using PartOf = typename EightOf<P>::Part;

PYSTN_HD Eight floor_of(Eight x) { return Eight(_mm256_floor_ps(__m256(x))); }
PYSTN_HD PartOf<double> floor_of(PartOf<double> x) { return PartOf<double>(_mm256_floor_pd(__m256d(x))); }

PYSTN_HD Eight floats(const EightOf<float>& x) { return x.part[0]; }
PYSTN_HD Eight floats(const EightOf<double>& x) {
  return Eight(_mm256_set_m128(_mm256_cvtpd_ps(__m256d(x.part[1])), _mm256_cvtpd_ps(__m256d(x.part[0]))));
}
// Integers, as the processor rounds: of whole numbers these, else to even ones.
PYSTN_HD EightInts integers(const EightOf<float>& x) { return EightInts(_mm256_cvtps_epi32(__m256(x.part[0]))); }
PYSTN_HD EightInts integers(const EightOf<double>& x) {
  return EightInts(_mm256_set_m128i(_mm256_cvtpd_epi32(__m256d(x.part[1])), _mm256_cvtpd_epi32(__m256d(x.part[0]))));
}

// Which of the lanes have a sign.
PYSTN_HD int signs_of(EightInts x) { return _mm256_movemask_ps(_mm256_castsi256_ps(__m256i(x))); }

// Pairs that are next to each other in memory, apart.
PYSTN_HD void split_pairs(const float* from, EightOf<float>& x, EightOf<float>& y) {
  const auto every_other_two = [&](const float* at) __attribute__((always_inline)) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at)), _mm_loadu_ps(at + eight), 1);
  };
  const __m256 a = every_other_two(from), b = every_other_two(from + eight / 2);
  x.part[0] = Eight(_mm256_shuffle_ps(a, b, 0x88));
  y.part[0] = Eight(_mm256_shuffle_ps(a, b, 0xdd));
}
PYSTN_HD void split_pairs(const double* from, EightOf<double>& x, EightOf<double>& y) {
  for (int p = 0; p < 2; ++p, from += eight) {
    const __m256d a = _mm256_loadu_pd(from), b = _mm256_loadu_pd(from + eight / 2);
    x.part[p] = PartOf<double>(_mm256_permute4x64_pd(_mm256_unpacklo_pd(a, b), 0xd8));
    y.part[p] = PartOf<double>(_mm256_permute4x64_pd(_mm256_unpackhi_pd(a, b), 0xd8));
  }
}

// The first `count` of these, and 0 in the other lanes.
template <class P>
PYSTN_HD void split_some_pairs(const P* from, int count, EightOf<P>& x, EightOf<P>& y) {
  P some[2 * eight] = {};
  __builtin_memcpy(some, from, 2 * count * sizeof(P));
  split_pairs(some, x, y);
}
PYSTN_HD __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Numbers next to each other, the first `count` of which are there.
PYSTN_HD Eight load_eight(const float* from, int count) {
  return Eight(count >= eight ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, first_lanes(count)));
}
// Pairs of two vectors' lanes, next to each other in memory.
PYSTN_HD void store_pairs(float* to, Eight x, Eight y) {
  const __m256 a = _mm256_unpacklo_ps(__m256(x), __m256(y)), b = _mm256_unpackhi_ps(__m256(x), __m256(y));
  _mm256_storeu_ps(to, _mm256_permute2f128_ps(a, b, 0x20));
  _mm256_storeu_ps(to + eight, _mm256_permute2f128_ps(a, b, 0x31));
}

template <class Number>
PYSTN_HD Number number_at(const void* from) {
  Number number;
  __builtin_memcpy(&number, from, sizeof number);
  return number;
}

// Elements at offsets `first` of a plane, and those after them. What is wider has no use for them.
#if !defined(__AVX512F__)
PYSTN_HD void read_pairs(const float* from, const int* first, Eight (&tap)[2]) { Rows<2>::read(from, first, tap); }
PYSTN_HD void read_pairs(const Byte* from, const int* first, Eight (&tap)[2]) {
  const auto pair = [&](int l) __attribute__((always_inline)) { return number_at<short>(from + first[l]); };
  const __m128i pairs = _mm_setr_epi16(pair(0), pair(1), pair(2), pair(3), pair(4), pair(5), pair(6), pair(7));
  tap[0] = Eight(widened_8(_mm_and_si128(pairs, _mm_set1_epi16(255)), (unsigned short)0));
  tap[1] = Eight(widened_8(_mm_srli_epi16(pairs, 8), (unsigned short)0));
}
template <class T>
PYSTN_HD void read_pairs(const T* from, const int* first, Eight (&tap)[2]) {
  const auto pair = [&](int l) __attribute__((always_inline)) { return number_at<int>(from + first[l]); };
  const __m256i pairs = _mm256_setr_epi32(pair(0), pair(1), pair(2), pair(3), pair(4), pair(5), pair(6), pair(7));
  tap[0] = Eight(widened_8(packed_unsigned(_mm256_and_si256(pairs, _mm256_set1_epi32(65535))), T()));
  tap[1] = Eight(widened_8(packed_unsigned(_mm256_srli_epi32(pairs, 16)), T()));
}
#endif

// Of eight numbers those become `value` whose bits are set.
PYSTN_HD void put_where(int bits, uint32_t value, uint32_t* to) {
  const __m256i of_lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128), set = _mm256_set1_epi32(bits);
  const __m256i chosen = _mm256_cmpeq_epi32(_mm256_and_si256(set, of_lane), of_lane);
  const __m256i old = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(to));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_blendv_epi8(old, _mm256_set1_epi32(int(value)), chosen));
}
PYSTN_HD void put_where(int bits, uint16_t value, uint16_t* to) {
  const __m128i of_lane = _mm_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128), set = _mm_set1_epi16(short(bits));
  const __m128i chosen = _mm_cmpeq_epi16(_mm_and_si128(set, of_lane), of_lane);
  const __m128i old = _mm_loadu_si128(reinterpret_cast<const __m128i*>(to));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_blendv_epi8(old, _mm_set1_epi16(short(value)), chosen));
}
PYSTN_HD void put_where(int bits, uint8_t value, uint8_t* to) {
  const __m128i of_lane = _mm_set1_epi64x(int64_t(0x8040201008040201)), set = _mm_set1_epi8(char(bits));
  const __m128i chosen = _mm_cmpeq_epi8(_mm_and_si128(set, of_lane), of_lane);
  const __m128i old = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(to));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_blendv_epi8(old, _mm_set1_epi8(char(value)), chosen));
}

PYSTN_HD void store_eight(float* to, Eight x) { _mm256_storeu_ps(to, __m256(x)); }
PYSTN_HD void store_eight(Byte* to, Eight x) {
  const __m128i words = packed_signed(integers<Byte>(__m256(x)));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}
template <class T>
PYSTN_HD void store_eight(T* to, Eight x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), narrowed_8(__m256(x), T()));
}

}  // namespace pystn::PYSTN_LEVEL
#endif
