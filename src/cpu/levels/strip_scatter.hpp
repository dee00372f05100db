// What the pixels of a strip add to the taps of linear interpolation. For blocks.hpp.
//
// All terms of a channel are made before any is added; then the taps of a pixel follow each other, and neighbours among
// the pixels, which mostly add to the same elements, are far apart, so that none waits for the one before. Taps that
// are outside add 0 somewhere inside: there are no branches, which processors would foresee badly along edges. That
// changes no element: sums begin at 0, so none is -0.
#pragma once

#include "rows_of_taps.hpp"
#include "usual_taps.hpp"

namespace pystn::PYSTN_LEVEL {

template <class R, int ND>
struct StripScatter {
  static constexpr int apart = 8;  // pixels, and what a strip's rows are a multiple of
  static constexpr int capacity = strip_pixels, pairs = 1 << (ND - 1);

  // Whose taps these are; whether any of them is in the image.
  template <class Taps>
  bool place(const Taps& taps, int pixels, const int64_t* stride) {
    count = pixels;
    whole = true;
    step = int(stride[0]);
    for (int k = 0; k < pairs; ++k) {
      ahead[k] = 0;
      for (int a = 1; a < ND; ++a) ahead[k] += row_of(k, a) * int(stride[a]);
    }
    if (!taps.all) return place_some(taps);
    for (int k = 0; k < pairs; ++k)
      for (int i = 0; i < count; ++i) at[k][i] = taps.first[i] + ahead[k];
    return true;
  }

  // Adds the terms of one channel, whose cotangents are 0 beyond the rows' ends.
  template <class Taps>
  PYSTN_APART void add(const Taps& taps, const R* value, R* to) {
    taps.all ? set_terms<false>(taps, value) : set_terms<true>(taps, value);
    whole ? add_pairs(to) : add_one_by_one(to);
  }

 private:
  int count, step, ahead[pairs];  // from a tap to the next, from the first to that of each pair
  bool whole;                     // all pairs may be added to, those that do not count too
  alignas(64) int at[pairs][capacity];
  alignas(64) R term[pairs][capacity][2];
  // Where not all taps are in the image, which are.
  alignas(64) Flag in_row[pairs][capacity], in_column[2][capacity];

  // The tap on axis a > 0 that pair k is of.
  static PYSTN_HD int row_of(int k, int a) { return k >> (a - 1) & 1; }

  // Whether tap k on an axis is in the image, of all pixels.
  template <class Taps>
  void read_where(const Taps& taps, int a, int k, Flag* __restrict in) const {
    const int* __restrict const cell = taps.cell[a];
    const int begin = taps.begin[a] - k;
    const unsigned size = unsigned(taps.end[a] - taps.begin[a]);
    for (int i = 0; i < count; ++i) in[i] = Flag(unsigned(cell[i] - begin) < size);
  }

  template <class Taps>
  PYSTN_APART bool place_some(const Taps& taps) {
    for (int k = 0; k < 2; ++k) read_where(taps, 0, k, in_column[k]);
    alignas(64) Flag in_row_of[ND][2][capacity];
    for (int a = 1; a < ND; ++a)
      for (int k = 0; k < 2; ++k) read_where(taps, a, k, in_row_of[a][k]);
    const int room = taps.most - taps.least;
    Flag any = 0, beyond = room < 0;
    for (int k = 0; k < pairs; ++k) {
      for (int a = 1; a < ND; ++a) {
        const Flag* const more = in_row_of[a][row_of(k, a)];
        for (int i = 0; i < count; ++i) in_row[k][i] = a == 1 ? more[i] : in_row[k][i] & more[i];
      }
      for (int i = 0; ND == 1 && i < count; ++i) in_row[k][i] = 1;
      if (room >= 0)
        place_pairs(taps.first, taps.least, room, ahead[k], in_row[k], in_column[0], in_column[1], at[k], any, beyond);
    }
    whole = !beyond;
    for (int k = 0; beyond && k < pairs; ++k)
      for (int i = 0; i < count; ++i) at[k][i] = int(unsigned(taps.first[i]) + unsigned(ahead[k]));
    return any || room < 0;
  }

  // Where pairs of which any counts begin: none before `least`, and none behind it by more than `room`. The others go
  // to some places, not to one, where each would wait for the one before.
  PYSTN_HD void place_pairs(const int* __restrict first, int least, int room, int ahead, const Flag* __restrict in_row,
                            const Flag* __restrict in0, const Flag* __restrict in1, int* __restrict at, Flag& any,
                            Flag& beyond) const {
    Flag some = 0, out = 0;
    for (int i = 0; i < count; ++i) {
      const Flag in = in_row[i] & (in0[i] | in1[i]);
      const unsigned from = unsigned(first[i]) + unsigned(ahead - least);  // any bits if it does not count
      const int spread = i / apart * 2 % 32, instead = spread < room ? spread : room;
      out |= in & Flag(from > unsigned(room));
      some |= in;
      at[i] = least + (in ? int(from) : instead);
    }
    any |= some;
    beyond |= out;
  }

  template <bool some, class Taps>
  PYSTN_HD void set_terms(const Taps& taps, const R* __restrict value) {
    for (int k = 0; k < pairs; ++k)
      for (int i = 0; i < count; ++i) {
        R row = value[i];
        for (int a = ND - 1; a > 0; --a) row *= taps.w[a][row_of(k, a)][i];
        for (int j = 0; j < 2; ++j) {
          const R all_axes = row * taps.w[0][j][i];
          term[k][i][j] = !some || (in_row[k][i] & in_column[j][i]) ? all_axes : R(0);
        }
      }
  }

  PYSTN_HD void add_pairs(R* to) const {
    typedef R Pair __attribute__((vector_size(2 * sizeof(R))));
    for (int j = 0; j < apart; ++j)
      for (int i = j; i < count; i += apart)
        for (int k = 0; k < pairs; ++k) {
          Pair sum, more;
          __builtin_memcpy(&sum, to + at[k][i], sizeof sum);
          __builtin_memcpy(&more, term[k][i], sizeof more);
          sum += more;
          __builtin_memcpy(to + at[k][i], &sum, sizeof sum);
        }
  }

  // In the same order, those that count.
  PYSTN_HD void add_one_by_one(R* to) const {
    for (int j = 0; j < apart; ++j)
      for (int i = j; i < count; i += apart)
        for (int k = 0; k < pairs; ++k)
          for (int l = 0; l < 2; ++l)
            if (in_row[k][i] & in_column[l][i]) to[at[k][i] + l * step] += term[k][i][l];
  }
};

}  // namespace pystn::PYSTN_LEVEL
