// The taps of a run on all axes. This is the first stage of every sample: conventions, kernels and boundaries end here,
// and what follows sees indices and weights.
#pragma once

#include "strip.hpp"

namespace pystn::PYSTN_LEVEL {

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

// Writes the gradient to the stored coordinates of a run.
template <class R, int ND>
PYSTN_APART void store_grad_grid(const SampleJob& job, int64_t n, const Span& span, const R (&x)[ND][strip_columns]) {
  const GridArray& to = job.grad_grid;
  if (to.component == 1 && column_stride(job, to.axis) == ND) {
    const int64_t at = grid_offset(job, to, n, span, 0, 0);
    if (job.grid_type == Element::f32) return store_pixels(static_cast<float*>(to.data) + at, span.count, x);
    return store_pixels(static_cast<double*>(to.data) + at, span.count, x);
  }
  for (int a = 0; a < ND; ++a) store_coordinates(job, to, n, span, a, x[a]);
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
  is_stored(job) ? store_grad_grid(job, n, span, x) : add_to_matrix(job, n, chunk, span, x);
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

}  // namespace pystn::PYSTN_LEVEL
