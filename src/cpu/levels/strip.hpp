// A strip: up to 4 x 64 output pixels, walked together; and a run: up to 64 of one of its rows, whose
// coordinates are turned into taps together. This is the first stage of every sample: conventions,
// kernels and boundaries end here, and what follows sees indices and weights.
#pragma once

#include <string.h>

#include <type_traits>

#include "coordinates.hpp"
#include "job.hpp"
#include "matrix_source.hpp"
#include "taps.hpp"
#include "vectors.hpp"

namespace pystn::PYSTN_LEVEL {

template <int step_or_0, class G, class R>
inline void load_row(const G* __restrict x, int64_t stride, int count, R* __restrict to) {
  const int64_t step = step_or_0 ? step_or_0 : stride;
  for (int i = 0; i < count; ++i) to[i] = R(x[i * step]);
}

template <class G, class R>
inline void load_pairs(const G* __restrict from, int count, R* __restrict x, R* __restrict y) {
  for (int i = 0; i < count; ++i) {
    x[i] = R(from[2 * i]);
    y[i] = R(from[2 * i + 1]);
  }
}

template <class R>
PYSTN_APART void load_stored(const SampleJob& job, const GridArray& grid, int64_t n, const Span& span, int a, R* to) {
  const int64_t stride = column_stride(job, grid.axis);
  const int64_t at = n * grid.batch + offset_of(job, grid.axis, span) + a * grid.component;
  if (job.grid_type == Element::f32) {
    const float* const x = static_cast<const float*>(grid.data) + at;
    stride == 2 ? load_row<2>(x, stride, span.count, to) : load_row<0>(x, stride, span.count, to);
  } else {
    const double* const x = static_cast<const double*>(grid.data) + at;
    stride == 2 ? load_row<2>(x, stride, span.count, to) : load_row<0>(x, stride, span.count, to);
  }
}

// Coordinates of a run on one axis.
template <class R>
inline void load_coordinates(const SampleJob& job, int64_t n, const Span& span, int a, R* to) {
  is_stored(job) ? load_stored(job, job.grid, n, span, a, to) : make_coordinates(job, n, span, a, to);
}

// Those of the rows of a strip, `width` from one to the next: on all axes, and the last of a row again up to there.
template <class R, int ND, int capacity>
PYSTN_APART void load_strip(const SampleJob& job, int64_t n, const Span& strip, int width, R (&to)[ND][capacity]) {
  const bool pairs = ND == 2 && is_stored(job) && job.grid.component == 1 && column_stride(job, job.grid.axis) == 2;
  const auto load_rows = [&](const auto* grid) {
    const auto* from = grid + n * job.grid.batch + offset_of(job, job.grid.axis, strip);
    for (int r = 0; r < strip.rows; ++r, from += row_stride(job, job.grid.axis))
      load_pairs(from, strip.count, to[0] + r * width, to[ND - 1] + r * width);
  };
  if (pairs) {
    job.grid_type == Element::f32 ? load_rows(static_cast<const float*>(job.grid.data))
                                  : load_rows(static_cast<const double*>(job.grid.data));
  } else if (is_stored(job)) {
    for (int a = 0; a < ND; ++a)
      for (int r = 0; r < strip.rows; ++r)
        load_stored(job, job.grid, n, Span{strip.outer, strip.row + r, strip.column, 1, strip.count}, a,
                    to[a] + r * width);
  } else {
    make_strip(job, n, strip, width, to);
  }
  for (int a = 0; strip.count < width && a < ND; ++a)
    for (int r = 0; r < strip.rows; ++r)
      for (int i = strip.count; i < width; ++i) to[a][r * width + i] = to[a][r * width + strip.count - 1];
}

// Their tangents.
template <class R>
inline void load_tangents(const SampleJob& job, int64_t n, const Span& span, int a, R* to) {
  if (is_stored(job)) return load_stored(job, job.d_grid, n, span, a, to);
  if constexpr (std::is_same<R, float>::value)
    if (has_wide_positions(job)) {
      alignas(64) double wide[strip_columns];
      make_tangents(job, n, span, a, wide);
      for (int i = 0; i < span.count; ++i) to[i] = R(wide[i]);
      return;
    }
  make_tangents(job, n, span, a, to);
}

template <class G, class R>
inline void store_row(G* __restrict x, int64_t step, int count, const R* __restrict from) {
  for (int i = 0; i < count; ++i) x[i * step] = G(from[i]);
}

// Writes what load_stored reads.
template <class R>
PYSTN_APART void store_coordinates(const SampleJob& job, const GridArray& grid, int64_t n, const Span& span, int a,
                                   const R* from) {
  const int64_t stride = column_stride(job, grid.axis);
  const int64_t at = n * grid.batch + offset_of(job, grid.axis, span) + a * grid.component;
  if (job.grid_type == Element::f32)
    store_row(static_cast<float*>(grid.data) + at, stride, span.count, from);
  else
    store_row(static_cast<double*>(grid.data) + at, stride, span.count, from);
}

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

// The number of a kernel's taps if the compiler knows it, else 0: of &Kernel::taps.
template <class Kernel>
constexpr int known_taps(const int*) {
  return Kernel::taps;
}
template <class Kernel>
constexpr int known_taps(int Kernel::*) {
  return 0;
}

// Weights of the taps of a run from the phases t, with derivatives up to `order`: of tap k and pixel i at k * step + i.
template <int order, class R, class Kernel>
PYSTN_HD void weigh_one_by_one(const Kernel& kernel, int count, const R* __restrict t, R* __restrict w,
                               R* __restrict dw, R* __restrict d2w, int step) {
  constexpr int known = known_taps<Kernel>(&Kernel::taps), room = known ? known : max_taps;
  const int S = known ? known : kernel.taps;
  for (int i = 0; i < count; ++i) {
    R v[room], dv[order >= 1 ? room : 1], d2v[order >= 2 ? room : 1];
    kernel.weights(t[i], v, order >= 1 ? dv : nullptr, order >= 2 ? d2v : nullptr);
    for (int k = 0; k < S; ++k) {
      w[k * step + i] = v[k];
      if (order >= 1) dw[k * step + i] = dv[k];
      if (order >= 2) d2w[k * step + i] = d2v[k];
    }
  }
}

#if defined(__GNUC__)
// The same for as many pixels at a time as a vector has lanes.
template <int order, class R, class Kernel>
PYSTN_APART void weigh_in_lanes(const Kernel& kernel, int count, const R* t, R* w, R* dw, R* d2w, int step) {
  using V = typename Vectors<R>::V;
  constexpr int lanes = Vectors<R>::lanes, room = max_taps;
  V v[room], dv[order >= 1 ? room : 1], d2v[order >= 2 ? room : 1];
  for (int i = 0; i < count; i += lanes) {
    const int some = count - i < lanes ? count - i : lanes;
    const auto store = [&](R* to, const V* from) __attribute__((always_inline)) {
      if (some == lanes)
        for (int k = 0; k < kernel.taps; ++k) memcpy(to + k * step + i, from + k, sizeof(V));
      else
        for (int k = 0; k < kernel.taps; ++k) memcpy(to + k * step + i, from + k, some * sizeof(R));
    };
    V x{};
    memcpy(&x, t + i, some * sizeof(R));
    kernel.weights(x, v, order >= 1 ? dv : nullptr, order >= 2 ? d2v : nullptr);
    store(w, v);
    if (order >= 1) store(dw, dv);
    if (order >= 2) store(d2w, d2v);
  }
}
#endif

template <int order, class R, class Kernel>
PYSTN_HD void weigh_phases(const Kernel& kernel, int count, const R* t, R* w, R* dw, R* d2w, int step) {
#if defined(__GNUC__)
  if constexpr (Kernel::takes_lanes) return weigh_in_lanes<order>(kernel, count, t, w, dw, d2w, step);
#endif
  weigh_one_by_one<order>(kernel, count, t, w, dw, d2w, step);
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

  template <bool divides, class Projection>
  void project(const Projection& by, int count, const R* __restrict x) {
    for (int i = 0; i < count; ++i) position[i] = by.template operator()<divides>(x[i], factor[i]);
  }

  // Positions on axis a, folded into the image where the kernel asks for it.
  PYSTN_APART void set_positions(const SampleJob& job, int a, Boundary boundary, int count, const R* __restrict x) {
    if (folds(Mode(job.kernel[a].mode))) {
      with_fold(boundary, [&](auto fold) {
        using Fold = typename decltype(fold)::template Fold<R>;
        Projection<R, decltype(fold)::template Fold> by(job, a);
        by.origin = R(0);
        Flag within = 1;
        if constexpr (Fold::periodic)
          for (int i = 0; i < count; ++i) within &= by.fold.within(by.normalize(x[i]));
        if (within)
          project<false>(by, count, x);
        else
          project<true>(by, count, x);
      });
    } else {
      const auto normalize = Normalization<R>::of(Coordinates(job.coordinates), job.full[a]);
      for (int i = 0; i < count; ++i) {
        position[i] = normalize(x[i]);
        factor[i] = normalize.scale;
      }
    }
  }

  template <int order, class Kernel>
  void weigh(const Kernel& kernel, int count, R* __restrict cell) {
    alignas(64) R t[strip_columns];
    // A coordinate that is no number is cut off, and its taps are not read.
    for (int i = 0; i < count; ++i)
      cell[i] = cell_and_phase(kernel, position[i] == position[i] ? position[i] : R(0), t[i]);
    weigh_phases<order>(kernel, count, t, w, dw, d2w, known_taps<Kernel>(&Kernel::taps) ? strip_columns : columns);
  }

  template <int order>
  PYSTN_APART void set_taps(const SampleJob& job, int a, Boundary boundary, int count) {
    alignas(64) R cell[strip_columns];
    // Values are the same for every choice of slopes.
    const Subgradient rule = order ? Subgradient(job.subgradient) : Subgradient::right;
    with_kernel<R>(kernel_of(job, a), rule, lattice_tolerance<R>(rule, job.full[a]), [&](const auto& kernel) {
      taps = kernel.taps;
      columns = table_columns(taps);
      weigh<order>(kernel, count, cell);
    });
    const bool narrow = is_narrow(job.full[a]);
    for (int i = 0; i < count; ++i) adjacent[i] = narrow;
    for (int k = 0; taps > 2 && k < taps; ++k)
      for (int i = 0; i < count; ++i) adjacent[i] &= !idle<order>(entry(i, k));
    with_tap_boundary(folds(Mode(job.kernel[a].mode)) ? after_fold(boundary) : boundary, job.full[a],
                      [&](const auto& map) {
                        if (narrow) set_first(job, a, map, count, cell);
                        for (int i = 0; i < count; ++i) whole[i] = adjacent[i];
                        if (!all_of(adjacent, count)) list<order>(job, a, map, count, cell);
                      });
  }

  // Both at once, in one loop for the kernels that most calls have. Whether all taps are adjacent.
  template <int order>
  bool set(const SampleJob& job, int a, Boundary boundary, int count, const R* __restrict x) {
    const KernelJob& kernel = job.kernel[a];
    const bool to_the_right = order == 0 || Subgradient(job.subgradient) == Subgradient::right;
    const bool drops = boundary == Boundary::zeros || boundary == Boundary::constant;
    if (is_narrow(job.full[a])) {
      if (Mode(kernel.mode) == Mode::nearest)
        return set_folded<order>(job, a, boundary, Nearest<R>{kernel.variant != 0}, count, x);
      if (Mode(kernel.mode) == Mode::linear && to_the_right)
        return set_folded<order>(job, a, boundary, Linear<R>{}, count, x);
      if (Mode(kernel.mode) == Mode::cubic && (drops || boundary == Boundary::border))
        return set_known<order>(job, a, boundary, Cubic<R>{R(kernel.parameter)},
                                Normalization<R>::of(Coordinates(job.coordinates), job.full[a]), count, x);
    }
    set_positions(job, a, boundary, count, x);
    set_taps<order>(job, a, boundary, count);
    return all_of(adjacent, count);
  }

  template <int order, class Kernel>
  bool set_folded(const SampleJob& job, int a, Boundary boundary, const Kernel& kernel, int count,
                  const R* __restrict x) {
    bool all = false;
    with_fold(boundary, [&](auto fold) {
      using Fold = typename decltype(fold)::template Fold<R>;
      Projection<R, decltype(fold)::template Fold> by(job, a);
      by.origin = R(0);
      if constexpr (Fold::periodic) {
        Flag within = 1;
        for (int i = 0; i < count; ++i) within &= by.fold.within(by.normalize(x[i]));
        if (!within) {
          set_positions(job, a, boundary, count, x);
          set_taps<order>(job, a, boundary, count);
          all = all_of(adjacent, count);
          return;
        }
      }
      all = set_known<order>(job, a, after_fold(boundary), kernel, by, count, x);
    });
    return all;
  }

  // From a position by Normalization or Projection; `boundary` is that of the taps.
  template <int order, class Kernel, class Position>
  PYSTN_APART bool set_known(const SampleJob& job, int a, Boundary boundary, const Kernel& kernel,
                             const Position& position_of, int count, const R* __restrict x) {
    constexpr int S = Kernel::taps;
    alignas(64) R cells[strip_columns];
    const R low = R(-S), high = R(job.full[a] + S);
    const Index origin = job.origin[a];
    const int last = int(job.size[a]) - S;
    Flag all = 1;
    taps = S;
    columns = strip_columns;
    for (int i = 0; i < count; ++i) {
      R f, v[S], dv[S], d2v[S];
      R p = position_by(position_of, x[i], f);
      if (order >= 1) factor[i] = f;
      position[i] = p;
      p = p == p ? p : R(0);  // a coordinate that is no number is cut off, and its taps are not read
      const R cell = weigh_taps(kernel, p, v, order >= 1 ? dv : nullptr, order >= 2 ? d2v : nullptr);
      const int at = first_tap<int>(between(low, cell, high), S, origin);
      Flag plain = Flag(at >= 0) & Flag(at <= last);
      for (int k = 0; k < S; ++k) {
        w[k * strip_columns + i] = v[k];
        if (order >= 1) dw[k * strip_columns + i] = dv[k];
        if (order >= 2) d2w[k * strip_columns + i] = d2v[k];
        if (S > 2) plain &= Flag(!is_idle(v[k], order >= 1 ? dv[k] : R(0), order >= 2 ? d2v[k] : R(0)));
      }
      cells[i] = cell;
      first[i] = at;
      adjacent[i] = whole[i] = plain;
      all &= plain;
    }
    if (all) return true;
    with_tap_boundary(boundary, job.full[a], [&](const auto& map) { list<order>(job, a, map, count, cells); });
    return false;
  }

  static PYSTN_HD R position_by(const Normalization<R>& normalize, R x, R& f) {
    f = normalize.scale;
    return normalize(x);
  }
  template <template <class> class Fold>
  static PYSTN_HD R position_by(const Projection<R, Fold>& by, R x, R& f) {
    return by.template operator()<false>(x, f);
  }

  template <int order>
  bool idle(int at) const {
    return is_idle(w[at], order >= 1 ? dw[at] : R(0), order >= 2 ? d2w[at] : R(0));
  }

  template <class Map>
  void set_first(const SampleJob& job, int a, const Map& map, int count, const R* __restrict cell) {
    const Index origin = job.origin[a];
    const int last = int(job.size[a]) - taps;
    const auto set = [&](int i, R reduced) {
      const int at = first_tap<int>(reduced, taps, origin);
      first[i] = at;
      adjacent[i] &= at >= 0 && at <= last;
    };
    if constexpr (Map::periodic) {
      const R period = R(map.period());
      Flag within = 1;
      for (int i = 0; i < count; ++i) within &= absolute(cell[i]) <= period;
      if (within) {
        for (int i = 0; i < count; ++i) set(i, cell[i]);
        return;
      }
    }
    for (int i = 0; i < count; ++i) set(i, map.reduce(cell[i]));
  }

  // Lists the taps of pixels whose taps are not adjacent: of all together, if no index needs a division.
  template <int order, class Map>
  void list(const SampleJob& job, int a, const Map& map, int count, const R* __restrict cell) {
    Flag within = is_narrow(map.n);
    if constexpr (Map::periodic) {
      const R period = R(map.period());
      within &= Flag(map.n > max_taps);
      for (int i = 0; i < count; ++i) within &= Flag(absolute(cell[i]) <= period);
    }
    if (within) return list_all<order>(job, a, map, count, cell);
    for (int i = 0; i < count; ++i)
      if (!adjacent[i]) list_taps<order>(job, a, map, i, cell[i]);
  }

  template <int order, class Map>
  void list_all(const SampleJob& job, int a, const Map& map, int count, const R* __restrict cell) {
    alignas(64) int from[strip_columns];
    alignas(64) Flag reads[strip_columns];
    for (int i = 0; i < count; ++i) {
      from[i] = first_tap<int>(Map::periodic ? cell[i] : map.reduce(cell[i]), taps, Index(0));
      whole[i] = reads[i] = true;
    }
    for (int k = 0; k < taps; ++k) {
      const int at = entry(0, k);
      if (taps > 2) find_busy<order>(count, w + at, dw + at, d2w + at, reads);
      list_tap(map, int(job.origin[a]), int(job.size[a]), k, count, from, reads, index + at, whole);
    }
  }

  // Loops of their own, without anything else that they could write to, or they do not vectorise.
  template <int order>
  static PYSTN_APART void find_busy(int count, const R* __restrict w, const R* __restrict dw, const R* __restrict d2w,
                                    Flag* __restrict busy) {
    for (int i = 0; i < count; ++i) busy[i] = !is_idle(w[i], order >= 1 ? dw[i] : R(0), order >= 2 ? d2w[i] : R(0));
  }
  template <class Map>
  static PYSTN_APART void list_tap(const Map map, int origin, int size, int k, int count, const int* __restrict from,
                                   const Flag* __restrict reads, Index* __restrict to, Flag* __restrict whole) {
    for (int i = 0; i < count; ++i) {
      const int mapped = map.nearby_tap(from[i] + k), at = mapped - origin;
      const Flag in = reads[i] & Flag(mapped >= 0) & Flag(at >= 0) & Flag(at < size);
      to[i] = in ? Index(at) : outside_image;
      whole[i] &= in;
    }
  }

  template <int order, class Map>
  void list_taps(const SampleJob& job, int a, const Map& map, int i, R cell) {
    const Index from = first_tap<Index>(map.reduce(cell), taps, job.origin[a]);
    whole[i] = true;
    for (int k = 0; k < taps; ++k) {
      const bool reads = taps <= 2 || !idle<order>(entry(i, k));
      const Index at = reads ? map_tap(map, from + k, job.origin[a], job.size[a]) : outside_image;
      index[entry(i, k)] = at;
      whole[i] &= Flag(at >= 0);
    }
  }

  // The same taps, their weights rounded; not the positions, which R does not hold.
  template <int order>
  PYSTN_APART void round_from(const AxisTable<double>& table, int count) {
    taps = table.taps;
    columns = table.columns;
    const auto round = [&](R* __restrict to, const double* __restrict from) {
      for (int k = 0; k < taps; ++k)
        for (int i = 0; i < count; ++i) to[entry(i, k)] = R(from[entry(i, k)]);
    };
    round(w, table.w);
    if (order >= 1) round(dw, table.dw);
    if (order >= 2) round(d2w, table.d2w);
    for (int i = 0; order >= 1 && i < count; ++i) factor[i] = R(table.factor[i]);
    for (int i = 0; i < count; ++i) {
      whole[i] = table.whole[i];
      adjacent[i] = table.adjacent[i];
      first[i] = table.first[i];
    }
    for (int i = 0; i < count; ++i)
      for (int k = 0; !adjacent[i] && k < taps; ++k) index[entry(i, k)] = table.index[entry(i, k)];
  }

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
};

// Pixels of a run, so that the tables hold their taps.
inline int run_columns(const SampleJob& job) {
  int most = 1;
  for (int a = 0; a < job.ndim; ++a) most = job.kernel[a].taps > most ? job.kernel[a].taps : most;
  return table_columns(most);
}

// Calls body(span of one row) for the runs of a strip, in order.
template <class Body>
inline void for_each_run(const SampleJob& job, const Span& strip, Body&& body) {
  const int columns = run_columns(job);
  for (int r = 0; r < strip.rows; ++r)
    for (int i = 0; i < strip.count; i += columns) {
      const int count = strip.count - i < columns ? strip.count - i : columns;
      body(Span{strip.outer, strip.row + r, strip.column + i, 1, count});
    }
}

// One number of a grid, and one of its gradient: coordinate a of column i of a run.
inline int64_t grid_offset(const SampleJob& job, const GridArray& grid, int64_t n, const Span& span, int i, int a) {
  return n * grid.batch + offset_of(job, grid.axis, span) + i * column_stride(job, grid.axis) + a * grid.component;
}

inline double grid_element(const SampleJob& job, const GridArray& grid, int64_t n, const Span& span, int i, int a) {
  const int64_t at = grid_offset(job, grid, n, span, i, a);
  return job.grid_type == Element::f32 ? static_cast<const float*>(grid.data)[at]
                                       : static_cast<const double*>(grid.data)[at];
}

// The taps of a run on all axes.
template <class R, int ND>
struct Run {
  AxisTable<R> axis[ND];
  AxisTable<R> cover[ND];                 // the same with nothing read outside, if a mask is wanted
  alignas(64) Flag cut[strip_columns];    // replaced whole by the fill value
  alignas(64) Flag whole[strip_columns];  // all taps are in the image
  int placed;   // pixels: those of the span, and its last again up to a multiple of some lanes
  bool plain;   // all taps of all pixels are in the image, and the cutoff and the mask leave them alone
  bool linear;  // the kernels of all axes are

  template <int order>
  PYSTN_APART void place(const SampleJob& job, int64_t n, const Span& span, int lanes = 1) {
    if constexpr (std::is_same<R, float>::value)
      if (has_wide_positions(job)) return place_wide<order>(job, n, span, lanes);
    alignas(64) R x[strip_columns];
    placed = (span.count + lanes - 1) / lanes * lanes;
    for (int i = 0; i < placed; ++i) cut[i] = false, whole[i] = true;
    plain = Cutoff(job.cutoff) == Cutoff::none && !job.mask.data;
    linear = true;
    const bool cuts = Cutoff(job.cutoff) != Cutoff::none;
    for (int a = 0; a < ND; ++a) {
      load_coordinates(job, n, span, a, x);
      for (int i = span.count; i < placed; ++i) x[i] = x[span.count - 1];
      const Boundary boundary = Boundary(job.boundary[a]);
      linear = linear && Mode(job.kernel[a].mode) == Mode::linear;
      const bool adjacent = axis[a].template set<order>(job, a, boundary, placed, x);
      const bool finite = all_finite(placed, x);
      if (cuts || !finite) set_cut(job, a, placed, x);
      for (int i = 0; !adjacent && i < placed; ++i) whole[i] &= axis[a].whole[i];
      plain = plain && adjacent && finite;
      if (job.mask.data) cover[a].template set<order>(job, a, Boundary::zeros, placed, x);
    }
  }

  // By positions of float64: in their arithmetic, and then rounded.
  template <int order>
  PYSTN_APART void place_wide(const SampleJob& job, int64_t n, const Span& span, int lanes) {
    Run<double, ND> run;
    run.template place<order>(job, n, span, lanes);
    placed = run.placed;
    plain = run.plain;
    linear = run.linear;
    for (int i = 0; i < placed; ++i) cut[i] = run.cut[i], whole[i] = run.whole[i];
    for (int a = 0; a < ND; ++a) {
      axis[a].template round_from<order>(run.axis[a], placed);
      if (job.mask.data) cover[a].template round_from<order>(run.cover[a], placed);
    }
  }

  // The mask of a run's pixels, placed for nothing else.
  PYSTN_APART void cover_pixels(const SampleJob& job, int64_t n, const Span& span, R* __restrict mask) {
    alignas(64) R x[strip_columns], sum[strip_columns];
    const int count = placed = span.count;
    const bool cuts = Cutoff(job.cutoff) != Cutoff::none;
    for (int i = 0; i < count; ++i) cut[i] = false, mask[i] = R(1);
    for (int a = 0; a < ND; ++a) {
      const AxisTable<R>& table = cover[a];
      load_coordinates(job, n, span, a, x);
      const bool adjacent = cover[a].template set<0>(job, a, Boundary::zeros, count, x);
      if (cuts || !all_finite(count, x)) set_cut(job, a, count, x);
      for (int i = 0; i < count; ++i) sum[i] = R(0);
      for (int k = 0; k < table.taps; ++k) {
        const R* const w = table.w + table.entry(0, k);
        const Index* const index = table.index + table.entry(0, k);
        if (adjacent)
          for (int i = 0; i < count; ++i) sum[i] += w[i];
        else
          for (int i = 0; i < count; ++i) sum[i] += table.adjacent[i] || index[i] >= 0 ? w[i] : R(0);
      }
      for (int i = 0; i < count; ++i) mask[i] *= sum[i];
    }
    for (int i = 0; i < count; ++i) mask[i] = cut[i] ? R(0) : clipped_share(mask[i]);
  }

  static bool all_finite(int count, const R* __restrict x) {
    Flag all = 1;
    for (int i = 0; i < count; ++i) all &= Flag(is_finite(x[i]));
    return all;
  }

  PYSTN_APART void set_cut(const SampleJob& job, int a, int count, const R* __restrict x) {
    for (int i = 0; i < count; ++i) cut[i] |= !is_finite(x[i]);
    if (Cutoff(job.cutoff) == Cutoff::none) return;
    const CutoffLine<R> line(Cutoff(job.cutoff), Coordinates(job.coordinates), job.full[a]);
    for (int i = 0; i < count; ++i) cut[i] |= line.leaves_out(x[i]);
  }

  // Keeps the taps on the slowest axis that are in a band of it.
  PYSTN_APART void restrict_to(Index low, Index high, int count) {
    AxisTable<R>& slowest = axis[ND - 1];
    plain = false;
    for (int i = 0; i < count; ++i) {
      slowest.restrict_to(low, high, i);
      whole[i] &= slowest.whole[i];
    }
  }

  // The share of pixel i's weight on taps that read the fill value.
  PYSTN_APART Jet<R, ND> outside(const SampleJob& job, int i, int order) const {
    R all[ND][3], inside[ND][3];
    bool nothing = false, one = true;
    for (int a = 0; a < ND; ++a) {
      const bool fills = Boundary(job.boundary[a]) == Boundary::constant;
      axis[a].sum(i, true, inside[a], order);
      axis[a].sum(i, !fills, all[a], order);
      nothing = nothing || !axis[a].reads(i);
      one = one && fills && adds_to_one(Mode(job.kernel[a].mode));
    }
    return share_outside<ND>(all, inside, nothing && one);
  }

  // d position / d coordinate on an axis.
  const R* factor_of(int a) const { return axis[a].factor; }

  // Whether pixel i reads anything of the image.
  bool reads(int i) const {
    if (cut[i]) return false;
    bool all = true;
    for (int a = 0; !whole[i] && a < ND; ++a) all = all && axis[a].reads(i);
    return all;
  }

  // The tangents of positions: d_grid, in pixels.
  void steps(const SampleJob& job, int64_t n, const Span& span, R (*step)[strip_columns]) const {
    for (int a = 0; a < ND; ++a) {
      load_tangents(job, n, span, a, step[a]);
      for (int i = span.count; i < placed; ++i) step[a][i] = R(0);
      const R* const factor = axis[a].factor;
      for (int i = 0; i < span.count; ++i) step[a][i] = factor[i] == R(0) ? R(0) : factor[i] * step[a][i];
    }
  }

  // Turns the slopes into those along a tangent of the coordinates and of the kernels' parameters:
  // their sum over the axes is then the derivative.
  PYSTN_APART void turn(const SampleJob& job, int64_t n, const Span& span) {
    alignas(64) R d[strip_columns] = {};
    for (int a = 0; a < ND; ++a) {
      if (has_steps(job)) load_tangents(job, n, span, a, d);
      turn(job, a, placed, d, axis[a]);
      if (job.mask.data) turn(job, a, placed, d, cover[a]);
    }
  }

  static void turn(const SampleJob& job, int a, int count, const R* __restrict d, AxisTable<R>& table) {
    alignas(64) R step[strip_columns];
    for (int i = 0; i < count; ++i) {
      step[i] = table.factor[i] == R(0) ? R(0) : d[i] * table.factor[i];
      table.factor[i] = R(1);
    }
    for (int k = 0; k < table.taps; ++k) {
      R* const dw = table.dw + table.entry(0, k);
      for (int i = 0; i < count; ++i) dw[i] = step[i] == R(0) ? R(0) : step[i] * dw[i];
    }
    if (!job.d_kernel[a]) return;
    with_parametric_kernel<R>(kernel_of(job, a), [&](const auto& kernel) {
      R d_w[max_taps], t;
      for (int i = 0; i < count; ++i) {
        cell_and_phase(kernel, table.position[i], t);
        kernel.push(t, job.d_kernel[a], d_w);
        for (int k = 0; k < table.taps; ++k) table.dw[table.entry(i, k)] += d_w[k];
      }
    });
  }

  PYSTN_APART Jet<R, ND> weight_inside(int i, int order) const {
    R inside[ND][3];
    for (int a = 0; a < ND; ++a) cover[a].sum(i, true, inside[a], order);
    return Product<R, ND>::of(inside);
  }

  // The mask of pixel i, with derivatives to the coordinates.
  PYSTN_APART Jet<R, ND> coverage(int i, int order) const {
    if (cut[i]) return Jet<R, ND>();
    return coverage_of(weight_inside(i, order), [&](int a) { return cover[a].factor[i]; });
  }
};

// Numbers of a run, those of its axes next to each other.
template <class G, class R, int ND>
inline void store_pixels(G* __restrict to, int count, const R (&x)[ND][strip_columns]) {
  for (int i = 0; i < count; ++i)
    for (int a = 0; a < ND; ++a) to[i * ND + a] = G(x[a][i]);
}

// Delivers what a run's coordinates receive, to the gradient of the grid or of the matrix: what its positions did,
// times d position / d coordinate;
template <class R, int ND, class Taps>
PYSTN_APART void put_grad_grid(const SampleJob& job, int64_t n, int64_t chunk, const Span& span, const Taps& taps,
                               const R (*sums)[strip_columns]) {
  alignas(64) R x[ND][strip_columns];
  for (int a = 0; a < ND; ++a) {
    const R* const factor = taps.factor_of(a);
    for (int i = 0; i < span.count; ++i) x[a][i] = factor[i] == R(0) ? R(0) : factor[i] * sums[a][i];
  }
  if (!is_stored(job)) return add_to_matrix(job, n, chunk, span, x);
  const GridArray& to = job.grad_grid;
  if (to.component == 1 && column_stride(job, to.axis) == ND) {
    const int64_t at = grid_offset(job, to, n, span, 0, 0);
    if (job.grid_type == Element::f32) return store_pixels(static_cast<float*>(to.data) + at, span.count, x);
    return store_pixels(static_cast<double*>(to.data) + at, span.count, x);
  }
  for (int a = 0; a < ND; ++a) store_coordinates(job, to, n, span, a, x[a]);
}

// and what they did themselves, beside what is there already.
template <class R, int ND>
PYSTN_APART void add_grad_grid(const SampleJob& job, int64_t n, int64_t chunk, const Span& span,
                               R (&x)[ND][strip_columns]) {
  if (!is_stored(job)) return add_to_matrix(job, n, chunk, span, x);
  alignas(64) R before[strip_columns];
  for (int a = 0; a < ND; ++a) {
    load_stored(job, job.grad_grid, n, span, a, before);
    for (int i = 0; i < span.count; ++i) x[a][i] += before[i];
    store_coordinates(job, job.grad_grid, n, span, a, x[a]);
  }
}

// Strips of a chunk, at most; the size of its part of the table of reaches.
inline int64_t strips_per_chunk(const SampleJob& job) {
  return job.planes * ((job.chunk_rows + strip_rows - 1) / strip_rows) *
         ((job.chunk_columns + strip_columns - 1) / strip_columns);
}

inline Reach* reaches_of(const SampleJob& job, int64_t n, int64_t chunk) {
  const int64_t image = job.grid_batch == 1 ? 0 : n;
  return job.reach + (image * chunks_per_image(job) + chunk) * strips_per_chunk(job);
}

// Fills a chunk's part of the table of reaches. Where the coordinate is folded the positions tell;
// else the taps do.
template <class R>
inline void find_reach(const SampleJob& job, int64_t chunk) {
  const int64_t n = chunk / chunks_per_image(job), of_image = chunk % chunks_per_image(job);
  const int slowest = job.ndim - 1;
  const Boundary boundary = Boundary(job.boundary[slowest]);
  const bool from_positions = folds(Mode(job.kernel[slowest].mode)) && boundary != Boundary::wrap;
  Reach* reach = reaches_of(job, n, of_image);
  AxisTable<R> table;
  alignas(64) R x[strip_columns];
  for_each_strip(job, of_image, [&](const Span& strip) {
    Reach reached{job.size[slowest], 0};
    for_each_run(job, strip, [&](const Span& span) {
      load_coordinates(job, n, span, slowest, x);
      table.set_positions(job, slowest, boundary, span.count, x);
      int64_t low = job.size[slowest], high = 0;
      if (from_positions) {
        R least = table.position[0], most = table.position[0];
        for (int i = 0; i < span.count; ++i) {
          least = table.position[i] < least ? table.position[i] : least;
          most = table.position[i] > most ? table.position[i] : most;
        }
        low = int64_t(floor_of(least)) - job.origin[slowest];
        high = int64_t(floor_of(most)) - job.origin[slowest] + 2;
      } else {
        table.template set_taps<0>(job, slowest, boundary, span.count);
        for (int k = 0; k < table.taps; ++k)
          for (int i = 0; i < span.count; ++i) {
            const Index at = table.index_of(i, k);
            if (at < 0) continue;
            low = at < low ? at : low;
            high = at >= high ? at + 1 : high;
          }
      }
      reached.low = low < reached.low ? low : reached.low;
      reached.high = high > reached.high ? high : reached.high;
    });
    *reach++ = reached;
  });
}

}  // namespace pystn::PYSTN_LEVEL
