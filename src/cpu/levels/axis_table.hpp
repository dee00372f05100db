// The taps of a run on one axis: where they are, and their weights. How they are found, by every kernel and boundary,
// is much code, and compiled once: placing.cpp.
#pragma once

#include "span.hpp"
#include "taps.hpp"
#include "vectors.hpp"

namespace pystn::PYSTN_LEVEL {

inline KernelChoice kernel_of(const SampleJob& job, int a) {
  const KernelJob& k = job.kernel[a];
  return {Mode(k.mode), k.taps, k.variant, k.parameter, k.support, k.table, k.parameters};
}

constexpr int table_entries = 512;

// Pixels that a table of so many taps holds.
inline int table_columns(int taps) {
  return taps * strip_columns <= table_entries ? strip_columns : table_entries / taps;
}

inline bool all_of(const Flag* flags, int count) {
  Flag all = 1;
  for (int i = 0; i < count; ++i) all &= flags[i];
  return all;
}

// Whether indices along so many pixels, or beyond them as far as taps go, fit an int.
inline bool is_narrow(int64_t length) { return length < int64_t(1) << 29; }

// The taps of a run on one axis, as loops over its pixels want them: tap k of pixel i is entry
// k * columns + i.
template <class R>
struct AxisTable {
  int taps, columns;
  alignas(64) Flag whole[strip_columns];                         // all taps of the pixel are in the image
  alignas(64) Flag adjacent[strip_columns];                      // and follow the first, whose index fits an int
  alignas(64) R position[strip_columns], factor[strip_columns];  // in pixels; d position / d coordinate
  alignas(64) R w[table_entries], dw[table_entries], d2w[table_entries];
  alignas(64) int first[strip_columns];  // index of the first tap, where they are adjacent
  Index index[table_entries];            // of each, where not

  int entry(int i, int k) const { return k * columns + i; }
  Index index_of(int i, int k) const { return adjacent[i] ? first[i] + k : index[entry(i, k)]; }

  // Those of tap k of all pixels, of an axis whose indices fit an int.
  void indices(int k, int count, int* to) const { choose(adjacent, first, k, index + entry(0, k), count, to); }
  static PYSTN_APART void choose(const Flag* __restrict adjacent, const int* __restrict first, int k,
                                 const Index* __restrict listed, int count, int* __restrict to) {
    for (int i = 0; i < count; ++i) {
      const int other = int(listed[i]);  // read in any case, or the loop does not vectorise
      to[i] = adjacent[i] ? first[i] + k : other;
    }
  }

  // Positions on axis a, folded into the image where the kernel asks for it.
  void set_positions(const SampleJob& job, int a, Boundary boundary, int count, const R* __restrict x);
  // The taps at these positions, with derivatives of their weights up to `order`.
  template <int order>
  void set_taps(const SampleJob& job, int a, Boundary boundary, int count);
  // Both at once, in one loop for the kernels that most calls have. Whether all taps are adjacent.
  template <int order>
  bool set(const SampleJob& job, int a, Boundary boundary, int count, const R* __restrict x);
  // The same taps, their weights rounded; not the positions, which R does not hold.
  template <int order>
  void round_from(const AxisTable<double>& table, int count);

  // Keeps the taps of pixel i with low <= index < high.
  void restrict_to(Index low, Index high, int i) {
    if (adjacent[i] && first[i] >= low && first[i] + taps <= high) return;
    for (int k = 0; k < taps; ++k) {
      const Index at = index_of(i, k);
      const bool within = at >= low && at < high;
      index[entry(i, k)] = within ? at : outside_image;
      whole[i] &= within;
    }
    adjacent[i] = false;
  }

  // Whether pixel i reads anything of the image on this axis.
  bool reads(int i) const {
    bool any = false;
    for (int k = 0; k < taps; ++k) any = any || index_of(i, k) >= 0;
    return any;
  }

  // Sums of w, w' and w'' over the taps of pixel i, or those inside.
  void sum(int i, bool inside, R (&sums)[3], int order) const {
    sums[0] = sums[1] = sums[2] = R(0);
    for (int k = 0; k < taps; ++k) {
      if (inside && index_of(i, k) < 0) continue;
      sums[0] += w[entry(i, k)];
      if (order >= 1) sums[1] += dw[entry(i, k)];
      if (order >= 2) sums[2] += d2w[entry(i, k)];
    }
  }

 private:
  template <bool divides, class Projection>
  void project(const Projection& by, int count, const R* __restrict x);
  template <int order, class Kernel>
  void weigh(const Kernel& kernel, int count, R* __restrict cell);
  template <int order, class Kernel>
  bool set_folded(const SampleJob& job, int a, Boundary boundary, const Kernel& kernel, int count,
                  const R* __restrict x);
  template <int order, class Kernel, class Projection>
  bool set_known(const SampleJob& job, int a, Boundary boundary, const Kernel& kernel, const Projection& by, int count,
                 const R* __restrict x);
  template <int order>
  bool idle(int at) const;
  template <class Map>
  void set_first(const SampleJob& job, int a, const Map& map, int count, const R* __restrict cell);
  template <int order, class Map>
  void list(const SampleJob& job, int a, const Map& map, int count, const R* __restrict cell);
  template <int order, class Map>
  void list_all(const SampleJob& job, int a, const Map& map, int count, const R* __restrict cell);
  template <int order, class Map>
  void list_taps(const SampleJob& job, int a, const Map& map, int i, R cell);
};

// Cells and weights of positions that are small numbers, by a kernel that does not fold. Cells less `before`; entry i
// of tap k is k * step + i. Of pixels that have an idle tap, which may be no number, `busy` is taken away.
template <int order, class P>
void weigh_positions(const KernelChoice& choice, int count, const P* __restrict position, int before,
                     int* __restrict cell, P* w, P* dw, int step, Flag* __restrict busy);

}  // namespace pystn::PYSTN_LEVEL
