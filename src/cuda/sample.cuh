// One sample: where it lies, and the taps it reads. The first stage of every kernel: conventions, interpolation
// kernels and boundaries end here.
#pragma once

#include "coordinates.hpp"
#include "elements.hpp"
#include "job.cuh"
#include "taps.hpp"
#include "threads.cuh"

namespace pystn::PYSTN_LEVEL {

// The index of a sample's pixel along each axis of the shape. Loops know their length, so that it stays in registers.
template <class I>
struct Place {
  I at[max_rank];

  template <class Job>
  PYSTN_HD Place(const Job& job, I pixel) {
    PYSTN_UNROLL
    for (int a = 0; a < max_rank; ++a) {
      if (a >= job.rank) break;
      const I length = I(job.shape[a]), rest = a + 1 < job.rank ? quotient(pixel, length) : I(0);
      at[a] = pixel - rest * length;
      pixel = rest;
    }
  }
  template <class Job>
  PYSTN_HD I offset(const Job& job, const Index* stride) const {
    I sum = 0;
    PYSTN_UNROLL
    for (int a = 0; a < max_rank; ++a) {
      if (a >= job.rank) break;
      sum += at[a] * I(stride[a]);
    }
    return sum;
  }
};

template <class I, class Job>
PYSTN_HD I channel_offset(const Job& job, Index stride, I c) {
  return job.components == 1 ? c * I(stride) : c / 2 * I(stride) + c % 2;
}

template <class I, class Job>
PYSTN_HD I place_in(const Job& job, const SampleArray& samples, I n, const Place<I>& place) {
  return n * I(samples.batch) + place.offset(job, samples.axis);
}

template <class Job>
PYSTN_HD bool is_stored(const Job& job) {
  return source_of(job) == Source::stored;
}
template <class Job>
PYSTN_HD bool is_projective(const Job& job) {
  return source_of(job) == Source::projective;
}
template <class Job>
PYSTN_HD bool has_steps(const Job& job) {
  return is_stored(job) ? job.d_grid.data != nullptr : job.source.d_theta != nullptr;
}

template <class R, class I, int ND, class Job>
PYSTN_HD void load_stored(const Job& job, const GridArray& grid, I n, const Place<I>& place, R* to) {
  const I at = n * I(grid.batch) + place.offset(job, grid.axis);
  PYSTN_UNROLL
  for (int a = 0; a < ND; ++a) {
    const I i = at + a * I(grid.component);
    to[a] = grid_type_of<R>(job) == Type::f32 ? R(only_read(static_cast<const float*>(grid.data) + i))
                                              : R(only_read(static_cast<const double*>(grid.data) + i));
  }
}

// The point of the lattice that a sample lies on, and its matrix.
template <class R, class I, int ND>
struct LatticePoint {
  R at[ND];
  Index matrix;  // offset among all

  template <class Job>
  PYSTN_HD LatticePoint(const Job& job, I n, const Place<I>& place) {
    PYSTN_UNROLL
    for (int a = 0; a < ND; ++a)
      at[a] = target_coordinate<R>(Coordinates(job.coordinates), place.at[a], job.source.size[a]);
    Index k = 0, step = 1;
    PYSTN_UNROLL
    for (int a = ND; a < max_rank; ++a) {
      if (a >= job.rank) break;
      k += step * place.at[a];
      step *= job.shape[a];
    }
    matrix = (n * job.source.batch + k) * (ND + is_projective(job)) * (ND + 1);
  }
  // In either case the number of rows is known, so that they stay in registers.
  template <class Job>
  PYSTN_HD MatrixRow<R> under(const Job& job, const void* matrices) const {
    const R* const from = static_cast<const R*>(matrices) + matrix;
    if constexpr (ND == 2)
      if (is_projective(job)) return MatrixRow<R>(from, 3, 2, at);
    return MatrixRow<R>(from, ND, ND, at);
  }
};

template <class R>
PYSTN_HD Horizon<R> horizon_of(const SampleJob& job) {
  return {R(job.source.least_denominator), job.source.cull_behind != 0};
}

template <class R, class I, int ND, class Job>
PYSTN_HD void load_coordinates(const Job& job, I n, const Place<I>& place, R* to) {
  if (is_stored(job)) return load_stored<R, I, ND>(job, job.grid, n, place, to);
  const LatticePoint<R, I, ND> point(job, n, place);
  const MatrixRow<R> row = point.under(job, job.source.theta);
  PYSTN_UNROLL
  for (int a = 0; a < ND; ++a) to[a] = row(a, point.at[0]);
  if (!is_projective(job)) return;
  const R q = row(2, point.at[0]);
  PYSTN_UNROLL
  for (int a = 0; a < ND; ++a) to[a] = horizon_of<R>(job).project(to[a], q);
}

// Their tangent: d_grid, or that of the matrix.
template <class R, class I, int ND, class Job>
PYSTN_HD void load_tangents(const Job& job, I n, const Place<I>& place, R* to) {
  if (is_stored(job)) return load_stored<R, I, ND>(job, job.d_grid, n, place, to);
  const LatticePoint<R, I, ND> point(job, n, place);
  const MatrixRow<R> d_row = point.under(job, job.source.d_theta);
  PYSTN_UNROLL
  for (int a = 0; a < ND; ++a) to[a] = d_row(a, point.at[0]);
  if (!is_projective(job)) return;
  const MatrixRow<R> row = point.under(job, job.source.theta);
  const R q = row(2, point.at[0]), d_q = d_row(2, point.at[0]);
  PYSTN_UNROLL
  for (int a = 0; a < ND; ++a) {
    const R at = horizon_of<R>(job).project(row(a, point.at[0]), q);
    to[a] = is_finite(at) ? projected_tangent(at, to[a], d_q, q) : R(0);
  }
}

PYSTN_HD KernelChoice kernel_of(const SampleJob& job, int a) {
  const KernelJob& k = job.kernel[a];
  return {Mode(k.mode), k.taps, k.variant, k.parameter, k.support, k.table, k.parameters};
}

// Calls body(kernel) with the kernel of axis a. Of one, two and four taps the compiler knows it: nearest, linear with
// slopes to the right, cubic.
template <class R, int room, class Body>
PYSTN_HD void with_kernel_of(const SampleJob& job, int a, Subgradient rule, Body&& body) {
  if constexpr (room == 1)
    body(Nearest<R>{job.kernel[a].variant != 0});
  else if constexpr (room == 2)
    body(Linear<R>{});
  else if constexpr (room == 4)
    body(Cubic<R>{R(job.kernel[a].parameter)});
  else
    with_kernel<R>(kernel_of(job, a), rule, lattice_tolerance<R>(rule, job.size[a]), body);
}

// The taps of a sample on one axis, of which there are `room` at most.
template <class R, class I, int room>
struct AxisTaps {
  static constexpr bool known = room <= 4;  // all of them
  int taps;
  bool whole;          // all are in the image
  R position, factor;  // in pixels; d position / d coordinate
  R w[room], dw[room], d2w[room];
  I index[room];

  PYSTN_HD int count() const { return known ? room : taps; }

  template <int order, class Job>
  PYSTN_HD void place(const Job& job, int a, Boundary boundary, R x) {
    const bool folded = room <= 2 || (room != 4 && folds(Mode(job.kernel[a].mode)));
    const Coordinates convention = Coordinates(job.coordinates);
    const I n = I(job.size[a]);
    if (folded) {
      with_fold(boundary, [&](auto fold) {
        using Folding = Projection<R, decltype(fold)::template Fold>;
        position = Folding(convention, Subgradient(job.subgradient), n, R(0))(x, factor);
      });
    } else {
      const auto normalize = Normalization<R>::of(convention, n);
      position = normalize(x);
      factor = normalize.scale;
    }
    // A coordinate that is no number is cut off, and its taps are not read.
    const R p = folded || position == position ? position : R(0);
    // Values are the same for every choice of slopes.
    const Subgradient rule = order ? Subgradient(job.subgradient) : Subgradient::right;
    R cell = R(0);
    with_kernel_of<R, room>(job, a, rule, [&](const auto& kernel) {
      R t;
      taps = kernel.taps;
      cell = folded ? kernel.place(p, t) : cell_and_phase(kernel, p, t);
      kernel.weights(t, w, order >= 1 ? dw : nullptr, order >= 2 ? d2w : nullptr);
    });
    with_tap_boundary(folded ? after_fold(boundary) : boundary, n, [&](const auto& map) {
      const I first = first_tap<I>(folded ? cell : map.reduce(cell), count(), 0);
      whole = true;
      for (int k = 0; k < count(); ++k) {
        const bool idle = count() > 2 && is_idle(w[k], order >= 1 ? dw[k] : R(0), order >= 2 ? d2w[k] : R(0));
        index[k] = idle ? I(outside_image) : map(first + k);
        whole = whole && index[k] >= 0;
      }
    });
  }

  // Whether anything of the image is read on this axis.
  PYSTN_HD bool reads() const {
    bool any = false;
    for (int k = 0; k < count(); ++k) any = any || index[k] >= 0;
    return any;
  }

  // Sums of w, w' and w'' over the taps, or those inside.
  PYSTN_HD void sum(bool inside, R* sums, int order) const {
    sums[0] = sums[1] = sums[2] = R(0);
    for (int k = 0; k < count(); ++k) {
      if (inside && index[k] < 0) continue;
      sums[0] += w[k];
      if (order >= 1) sums[1] += dw[k];
      if (order >= 2) sums[2] += d2w[k];
    }
  }

  // Turns the slopes into those along a tangent of the coordinate and of the kernel's parameters.
  PYSTN_HD void turn(const SampleJob& job, int a, R d) {
    const R step = factor == R(0) ? R(0) : d * factor;
    factor = R(1);
    for (int k = 0; k < count(); ++k) dw[k] = step == R(0) ? R(0) : step * dw[k];
    if (!job.d_kernel[a]) return;
    with_parametric_kernel<R>(kernel_of(job, a), [&](const auto& kernel) {
      R d_w[max_taps], t;
      cell_and_phase(kernel, position, t);
      kernel.push(t, job.d_kernel[a], d_w);
      for (int k = 0; k < count(); ++k) dw[k] += d_w[k];
    });
  }
};

template <class R, class I, int ND, int room>
struct Sample {
  // Of known kernels all axes are placed in one go, in registers; of others one after the other.
  static constexpr int axes_at_once = AxisTaps<R, I, room>::known ? ND : 1;
  AxisTaps<R, I, room> axis[ND];
  bool cut;    // replaced whole by the fill value
  bool whole;  // all taps are in the image

  template <int order, class Job>
  PYSTN_HD void place(const Job& job, const R* x) {
    cut = false;
    whole = true;
    PYSTN_UNROLL_BY(axes_at_once)
    for (int a = 0; a < ND; ++a) {
      cut = cut || is_cut(job, a, x[a]);
      axis[a].template place<order>(job, a, boundary_of(job, a), x[a]);
      whole = whole && axis[a].whole;
    }
  }

  // The same with nothing read outside, for the mask.
  template <int order, class Job>
  PYSTN_HD void cover(const Job& job, const R* x) {
    cut = false;
    PYSTN_UNROLL_BY(axes_at_once)
    for (int a = 0; a < ND; ++a) {
      cut = cut || is_cut(job, a, x[a]);
      axis[a].template place<order>(job, a, Boundary::zeros, x[a]);
    }
  }

  template <class Job>
  static PYSTN_HD bool is_cut(const Job& job, int a, R x) {
    if (!is_finite(x)) return true;
    if (Cutoff(job.cutoff) == Cutoff::none) return false;
    return CutoffLine<R>(Cutoff(job.cutoff), Coordinates(job.coordinates), job.size[a]).leaves_out(x);
  }

  // What core's functions over taps ask for.
  PYSTN_HD int count(int a) const { return axis[a].count(); }
  PYSTN_HD Index index(int a, int k) const { return axis[a].index[k]; }
  PYSTN_HD R weight(int a, int k) const { return axis[a].w[k]; }

  PYSTN_HD void turn(const SampleJob& job, const R* d) {
    PYSTN_UNROLL
    for (int a = 0; a < ND; ++a) axis[a].turn(job, a, d[a]);
  }

  // Whether anything of the image is read.
  PYSTN_HD bool reads() const {
    if (cut) return false;
    bool all = true;
    PYSTN_UNROLL
    for (int a = 0; !whole && a < ND; ++a) all = all && axis[a].reads();
    return all;
  }
  template <class Job>
  PYSTN_HD bool reads_fill(const Job& job) const {
    return job.fill && !cut && !whole;
  }

  // The share of the weight on taps that read the fill value.
  template <class Job>
  PYSTN_HD Jet<R, ND> outside(const Job& job, int order) const {
    R all[ND][3], inside[ND][3];
    bool nothing = false, one = true;
    PYSTN_UNROLL
    for (int a = 0; a < ND; ++a) {
      const bool fills = boundary_of(job, a) == Boundary::constant;
      axis[a].sum(true, inside[a], order);
      axis[a].sum(!fills, all[a], order);
      nothing = nothing || !axis[a].reads();
      one = one && fills && adds_to_one(Mode(job.kernel[a].mode));
    }
    return share_outside<ND>(all, inside, nothing && one);
  }

  PYSTN_HD Jet<R, ND> weight_inside(int order) const {
    R inside[ND][3];
    PYSTN_UNROLL
    for (int a = 0; a < ND; ++a) axis[a].sum(true, inside[a], order);
    return Product<R, ND>::of(inside);
  }

  // Of a sample that is placed by `cover`: the mask, with derivatives to the coordinates.
  PYSTN_HD Jet<R, ND> coverage(int order) const {
    if (cut) return Jet<R, ND>();
    return coverage_of(weight_inside(order), [&](int a) { return axis[a].factor; });
  }

  // The tangent of the position: d_grid, in pixels.
  template <class Job>
  PYSTN_HD void steps(const Job& job, I n, const Place<I>& place, R* step) const {
    PYSTN_UNROLL
    for (int a = 0; a < ND; ++a) step[a] = R(0);
    if (!job.d_grid.data) return;
    load_stored<R, I, ND>(job, job.d_grid, n, place, step);
    PYSTN_UNROLL
    for (int a = 0; a < ND; ++a) step[a] = axis[a].factor == R(0) ? R(0) : axis[a].factor * step[a];
  }
};

// The taps of a sample whose axes have one or two each: products of the axes' weights and slopes, made once for all
// channels.
template <class R, class I, int ND, int room>
struct FlatTaps {
  static constexpr int count = power(room, ND);
  bool inside[count];
  I offset[count];
  R weight[count], slope[ND][count];

  template <bool slopes>
  PYSTN_HD void place(const Sample<R, I, ND, room>& sample, const I* stride) {
    PYSTN_UNROLL
    for (int k = 0; k < count; ++k) {
      int tap[ND];
      inside[k] = !sample.cut;
      offset[k] = 0;
      weight[k] = R(1);
      for (int a = 0, rest = k; a < ND; ++a, rest /= room) {
        tap[a] = rest % room;
        const I index = sample.axis[a].index[tap[a]];
        inside[k] = inside[k] && index >= 0;
        offset[k] += index * stride[a];
        weight[k] *= sample.axis[a].w[tap[a]];
      }
      PYSTN_UNROLL
      for (int a = 0; slopes && a < ND; ++a) {
        slope[a][k] = sample.axis[a].dw[tap[a]];
        for (int b = 0; b < ND; ++b)
          if (b != a) slope[a][k] *= sample.axis[b].w[tap[b]];
      }
    }
  }
};

// An image of the batch.
template <class T, class R, class I, int ND>
struct Image {
  const void* data;
  Type type;
  I base, channel, stride[ND];

  PYSTN_HD Image(const ImageArray& image, I n)
      : data(image.data), type(Type(image.type)), base(n * I(image.batch)), channel(I(image.channel)) {
    PYSTN_UNROLL
    for (int a = 0; a < ND; ++a) stride[a] = I(image.axis[a]);
  }
  PYSTN_HD R operator()(I i) const { return Elements<T>::template read<R>(data, type, base + i); }

  template <int room>
  PYSTN_HD R gather(const FlatTaps<R, I, ND, room>& taps, I channel, const R* weights) const {
    constexpr int count = FlatTaps<R, I, ND, room>::count;
    R value[count], sum = R(0);
    load(taps, channel, value);
    for (int k = 0; k < count; ++k) sum += weights[k] * value[k];
    return sum;
  }
  // All under way before the first is waited for; 0 where outside, which adds nothing.
  template <int room>
  PYSTN_HD void load(const FlatTaps<R, I, ND, room>& taps, I channel, R* value) const {
    PYSTN_UNROLL
    for (int k = 0; k < taps.count; ++k) value[k] = taps.inside[k] ? (*this)(channel + taps.offset[k]) : R(0);
  }

  // The sum over the taps of a sample on the first L axes, with derivatives up to `order`.
  template <int order, int L, int room>
  PYSTN_HD Jet<R, L> gather(const Sample<R, I, ND, room>& sample, I at) const {
    Jet<R, L> sum;
    if constexpr (L == 0) {
      sum.value = (*this)(at);
    } else {
      const AxisTaps<R, I, room>& axis = sample.axis[L - 1];
      for (int k = 0; k < axis.count(); ++k) {
        if (axis.index[k] < 0) continue;
        const Jet<R, L - 1> inner = gather<order, L - 1>(sample, at + axis.index[k] * stride[L - 1]);
        sum.template add<order>(inner, axis.w[k], order >= 1 ? axis.dw[k] : R(0), order >= 2 ? axis.d2w[k] : R(0));
      }
    }
    return sum;
  }
};

}  // namespace pystn::PYSTN_LEVEL
