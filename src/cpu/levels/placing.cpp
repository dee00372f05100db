// Conventions, kernels and boundaries end here: coordinates become positions, and these taps with their weights. All of
// it in loops over a run's pixels.
#include <string.h>

#include <type_traits>

#include "axis_table.hpp"
#include "coordinates.hpp"

namespace pystn::PYSTN_LEVEL {

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
  constexpr int lanes = Vectors<R>::lanes, known = known_taps<Kernel>(&Kernel::taps), room = known ? known : max_taps;
  const int S = known ? known : kernel.taps;
  // Of a whole vector of pixels from i on, or of what is left: copies of a number of bytes that is not known are calls.
  const auto weigh = [&](int i, auto whole) __attribute__((always_inline)) {
    const int some = decltype(whole)::value ? lanes : count - i;
    V x{}, v[room], dv[order >= 1 ? room : 1], d2v[order >= 2 ? room : 1];
    memcpy(&x, t + i, some * sizeof(R));
    kernel.weights(x, v, order >= 1 ? dv : nullptr, order >= 2 ? d2v : nullptr);
    for (int k = 0; k < S; ++k) {
      memcpy(w + k * step + i, v + k, some * sizeof(R));
      if (order >= 1) memcpy(dw + k * step + i, dv + k, some * sizeof(R));
      if (order >= 2) memcpy(d2w + k * step + i, d2v + k, some * sizeof(R));
    }
  };
  int i = 0;
  for (; i + lanes <= count; i += lanes) weigh(i, std::true_type());
  if (i < count) weigh(i, std::false_type());
}
#endif

template <int order, class R, class Kernel>
PYSTN_HD void weigh_phases(const Kernel& kernel, int count, const R* t, R* w, R* dw, R* d2w, int step) {
#if defined(__GNUC__)
  if constexpr (Kernel::takes_lanes) return weigh_in_lanes<order>(kernel, count, t, w, dw, d2w, step);
#endif
  weigh_one_by_one<order>(kernel, count, t, w, dw, d2w, step);
}

template <class R>
template <bool divides, class Projection>
void AxisTable<R>::project(const Projection& by, int count, const R* __restrict x) {
  for (int i = 0; i < count; ++i) position[i] = by.template operator()<divides>(x[i], factor[i]);
}

// Positions on axis a, folded into the image where the kernel asks for it.
template <class R>
PYSTN_APART void AxisTable<R>::set_positions(const SampleJob& job, int a, Boundary boundary, int count,
                                             const R* __restrict x) {
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

template <class R>
template <int order, class Kernel>
void AxisTable<R>::weigh(const Kernel& kernel, int count, R* __restrict cell) {
  alignas(64) R t[strip_columns];
  // A coordinate that is no number is cut off, and its taps are not read.
  for (int i = 0; i < count; ++i)
    cell[i] = cell_and_phase(kernel, position[i] == position[i] ? position[i] : R(0), t[i]);
  weigh_phases<order>(kernel, count, t, w, dw, d2w, known_taps<Kernel>(&Kernel::taps) ? strip_columns : columns);
}

template <class R>
template <int order>
PYSTN_APART void AxisTable<R>::set_taps(const SampleJob& job, int a, Boundary boundary, int count) {
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
template <class R>
template <int order>
bool AxisTable<R>::set(const SampleJob& job, int a, Boundary boundary, int count, const R* __restrict x) {
  const KernelJob& kernel = job.kernel[a];
  const bool to_the_right = order == 0 || Subgradient(job.subgradient) == Subgradient::right;
  if (is_narrow(job.full[a])) {
    if (Mode(kernel.mode) == Mode::nearest)
      return set_folded<order>(job, a, boundary, Nearest<R>{kernel.variant != 0}, count, x);
    if (Mode(kernel.mode) == Mode::linear && to_the_right)
      return set_folded<order>(job, a, boundary, Linear<R>{}, count, x);
  }
  set_positions(job, a, boundary, count, x);
  set_taps<order>(job, a, boundary, count);
  return all_of(adjacent, count);
}

template <class R>
template <int order, class Kernel>
bool AxisTable<R>::set_folded(const SampleJob& job, int a, Boundary boundary, const Kernel& kernel, int count,
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

// `boundary` is that of the taps, of which there are at most two.
template <class R>
template <int order, class Kernel, class Projection>
PYSTN_APART bool AxisTable<R>::set_known(const SampleJob& job, int a, Boundary boundary, const Kernel& kernel,
                                         const Projection& by, int count, const R* __restrict x) {
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
    R p = by.template operator()<false>(x[i], f);
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

template <class R>
template <int order>
bool AxisTable<R>::idle(int at) const {
  return is_idle(w[at], order >= 1 ? dw[at] : R(0), order >= 2 ? d2w[at] : R(0));
}

template <class R>
template <class Map>
void AxisTable<R>::set_first(const SampleJob& job, int a, const Map& map, int count, const R* __restrict cell) {
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
template <class R>
template <int order, class Map>
void AxisTable<R>::list(const SampleJob& job, int a, const Map& map, int count, const R* __restrict cell) {
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

// Loops of their own, without anything else that they could write to, or they do not vectorise.
template <int order, class R>
PYSTN_APART void find_busy(int count, const R* __restrict w, const R* __restrict dw, const R* __restrict d2w,
                           Flag* __restrict busy) {
  for (int i = 0; i < count; ++i) busy[i] = !is_idle(w[i], order >= 1 ? dw[i] : R(0), order >= 2 ? d2w[i] : R(0));
}
template <class Map>
PYSTN_APART void list_tap(const Map map, int origin, int size, int k, int count, const int* __restrict from,
                          const Flag* __restrict reads, Index* __restrict to, Flag* __restrict whole) {
  for (int i = 0; i < count; ++i) {
    const int mapped = map.nearby_tap(from[i] + k), at = mapped - origin;
    const Flag in = reads[i] & Flag(mapped >= 0) & Flag(at >= 0) & Flag(at < size);
    to[i] = in ? Index(at) : outside_image;
    whole[i] &= in;
  }
}

template <class R>
template <int order, class Map>
void AxisTable<R>::list_all(const SampleJob& job, int a, const Map& map, int count, const R* __restrict cell) {
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

template <class R>
template <int order, class Map>
void AxisTable<R>::list_taps(const SampleJob& job, int a, const Map& map, int i, R cell) {
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
template <class R>
template <int order>
PYSTN_APART void AxisTable<R>::round_from(const AxisTable<double>& table, int count) {
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

template <int order, class P>
PYSTN_APART void weigh_positions(const KernelChoice& choice, int count, const P* __restrict position, int before,
                                 int* __restrict cell, P* w, P* dw, int step, Flag* __restrict busy) {
  alignas(64) P t[strip_pixels];
  with_kernel<P>(choice, Subgradient::right, P(0), [&](const auto& kernel) {
    if constexpr (!std::decay_t<decltype(kernel)>::folds) {
      for (int i = 0; i < count; ++i) cell[i] = int(kernel.place(position[i], t[i])) - before;
      weigh_phases<order, P>(kernel, count, t, w, dw, nullptr, step);
    }
  });
  for (int k = 0; k < choice.taps; ++k)
    for (int i = 0; i < count; ++i) busy[i] &= Flag(!is_idle(w[k * step + i], order ? dw[k * step + i] : P(0), P(0)));
}

// What the other files of a level call.
template struct AxisTable<float>;
template struct AxisTable<double>;
#define PYSTN_INSTANTIATE(R, order)                                                  \
  template void AxisTable<R>::set_taps<order>(const SampleJob&, int, Boundary, int); \
  template bool AxisTable<R>::set<order>(const SampleJob&, int, Boundary, int, const R* __restrict);
PYSTN_INSTANTIATE(float, 0)
PYSTN_INSTANTIATE(float, 1)
PYSTN_INSTANTIATE(float, 2)
PYSTN_INSTANTIATE(double, 0)
PYSTN_INSTANTIATE(double, 1)
PYSTN_INSTANTIATE(double, 2)
template void AxisTable<float>::round_from<0>(const AxisTable<double>&, int);
template void AxisTable<float>::round_from<1>(const AxisTable<double>&, int);
template void AxisTable<float>::round_from<2>(const AxisTable<double>&, int);
#define PYSTN_INSTANTIATE_WEIGHTS(R, order)                                                                            \
  template void weigh_positions<order, R>(const KernelChoice&, int, const R* __restrict, int, int* __restrict, R*, R*, \
                                          int, Flag* __restrict);
PYSTN_INSTANTIATE_WEIGHTS(float, 0)
PYSTN_INSTANTIATE_WEIGHTS(float, 1)
PYSTN_INSTANTIATE_WEIGHTS(double, 0)
PYSTN_INSTANTIATE_WEIGHTS(double, 1)

}  // namespace pystn::PYSTN_LEVEL
