// Samples whose kernel is stretched over a footprint (core/footprints.hpp): a thread has a sample, and some or all of
// its channels. Weights are made anew for every tap, so that a footprint of any size needs no memory.
//
// Of the arguments, X is the arithmetic, R or Dual<R>; I that of indices; Taps is Scales or Ellipses. The types of
// images are looked up. With tangents the value is the JVP and the gradients are those of second order.
#pragma once

#include "accumulation.cuh"
#include "footprints.hpp"
#include "sample.cuh"
#include "threads.cuh"

namespace pystn::PYSTN_LEVEL {

constexpr int channels_at_once = 8;

struct FootprintArray {  // (N, *shape, ndim) scales, x first, or (N, *shape, ndim, ndim) covariances; of the grid's
                         // type
  void* data;
  Index batch, row, column, axis[max_rank];
};

struct FootprintJob {
  SampleJob sample;
  FootprintArray footprint, d_footprint, grad_footprint;
  Index footprint_batch;  // 1 or N
  int ndim, unused;
};

template <class X>
struct Precision {
  using Type = double;
};
template <class R>
struct Precision<Dual<R>> {
  using Type = Dual<double>;
};

template <class Y>
PYSTN_HD Y with_tangent(RealOf<Y> value, RealOf<Y> tangent) {
  if constexpr (Arithmetic<Y>::dual)
    return Y(value, tangent);
  else
    return value;
}

template <class X, class I>
struct FootprintPoint {
  using R = RealOf<X>;
  using Precise = typename Precision<X>::Type;
  X p[3];
  R factor[3];  // d position / d coordinate
  Precise footprint[3][3];
  bool cut;  // replaced whole by the fill value

  static PYSTN_HD double element(const SampleJob& job, const void* data, I at) {
    return Type(job.grid_type) == Type::f32 ? double(static_cast<const float*>(data)[at])
                                            : static_cast<const double*>(data)[at];
  }
  static PYSTN_HD I place_of(const SampleJob& job, const FootprintArray& array, I n, const Place<I>& place) {
    return n * I(array.batch) + place.offset(job, array.axis);
  }
  static PYSTN_HD I place_of(const SampleJob& job, const GridArray& array, I n, const Place<I>& place) {
    return n * I(array.batch) + place.offset(job, array.axis);
  }

  PYSTN_HD void load(const FootprintJob& feet, bool covariances, I n, const Place<I>& place) {
    const SampleJob& job = feet.sample;
    const R bound = Limits<R>::quarter_of_largest;
    const auto convention = Coordinates(job.coordinates);
    const bool turns = Arithmetic<X>::dual && job.d_grid.data;
    const bool bends = Arithmetic<X>::dual && feet.d_footprint.data;
    const I at_grid = place_of(job, job.grid, n, place), at = place_of(job, feet.footprint, n, place);
    const I d_at_grid = turns ? place_of(job, job.d_grid, n, place) : I(0);
    const I d_at = bends ? place_of(job, feet.d_footprint, n, place) : I(0);
    cut = false;
    for (int a = 0; a < 3; ++a) {
      p[a] = X(R(0));
      factor[a] = R(0);
    }
    for (int a = 0; a < feet.ndim; ++a) {
      const R x = R(element(job, job.grid.data, at_grid + a * I(job.grid.component)));
      const auto normalize = Normalization<R>::of(convention, job.size[a]);
      cut = cut || !is_finite(x);
      if (!cut && Cutoff(job.cutoff) != Cutoff::none)
        cut = CutoffLine<R>(Cutoff(job.cutoff), convention, job.size[a]).leaves_out(x);
      factor[a] = normalize.scale;
      const R step = turns ? R(element(job, job.d_grid.data, d_at_grid + a * I(job.d_grid.component))) : R(0);
      p[a] = along(with_tangent<X>(R(0), step), between(-bound, normalize(x), bound), factor[a]);
    }
    const int columns = covariances ? feet.ndim : 1;
    for (int a = 0; a < feet.ndim; ++a)
      for (int b = 0; b < columns; ++b) {
        const FootprintArray &from = feet.footprint, &d_from = feet.d_footprint;
        const double value = element(job, from.data, at + a * I(from.row) + b * I(from.column));
        const double step = bends ? element(job, d_from.data, d_at + a * I(d_from.row) + b * I(d_from.column)) : 0.0;
        cut = cut || !is_finite(value);
        footprint[a][b] = with_tangent<Precise>(value, step);
      }
    for (int a = 0; covariances && a < feet.ndim; ++a)
      for (int b = 0; b < a; ++b) footprint[a][b] = footprint[b][a] = (footprint[a][b] + footprint[b][a]) * 0.5;
  }
};

PYSTN_HD Index length_of(const FootprintJob& feet, int a) { return a < feet.ndim ? feet.sample.size[a] : 1; }
PYSTN_HD Boundary boundary_of(const FootprintJob& feet, int a) {
  return a < feet.ndim ? Boundary(feet.sample.kernel[a].boundary) : Boundary::border;
}

// ---- Scales

template <class X>
struct Scales {
  using R = RealOf<X>;
  static constexpr bool covariances = false;
  StretchedAxis<X> axis[3];
  Stretched<X> sum[3], inside[3], weights[3];  // `weights` of the tap that is visited
  Index cell[3], near[3], first[3], last[3], size[3];
  Boundary boundary[3];
  bool whole;
  X by_p[3], by_s[3];

  template <class I>
  PYSTN_HD bool set(const FootprintJob& feet, FootprintPoint<X, I>& point, bool slopes) {
    const SampleJob& job = feet.sample;
    const X one(R(1)), zero(R(0));
    whole = true;
    for (int a = 0; a < 3; ++a) {
      by_p[a] = by_s[a] = zero;
      boundary[a] = boundary_of(feet, a);
      size[a] = length_of(feet, a);
      const bool there = a < feet.ndim;  // else one tap of a box
      const KernelChoice box{Mode::nearest, 1, 0, 0.0, 0.0, nullptr, 0};
      axis[a].place(there ? kernel_of(job, a) : box, Subgradient(job.subgradient), slopes, there ? point.p[a] : zero,
                    there ? X(point.footprint[a][0]) : one, size[a]);
      first[a] = axis[a].first;
      last[a] = axis[a].last;
      cell[a] = reduced_cell(boundary[a], axis[a].cell, first[a], last[a], size[a]);
      near[a] = reduced_cell(Boundary::zeros, axis[a].cell, first[a], last[a], size[a]);
      sum[a] = inside[a] = {zero, zero, zero};
      for (Index j = first[a]; j <= last[a]; ++j) {
        const Stretched<X> tap = tap_of(a, j);
        sum[a] += tap;
        if (near[a] + j >= 0 && near[a] + j < size[a]) inside[a] += tap;
      }
      const bool all = near[a] + first[a] >= 0 && near[a] + last[a] < size[a];
      inside[a] = all ? Stretched<X>{one, zero, zero} : axis[a].weight(inside[a], sum[a]);
      whole = whole && all;
      if (boundary[a] == Boundary::zeros || boundary[a] == Boundary::constant) {  // nothing is read outside
        first[a] = first[a] > -cell[a] ? first[a] : -cell[a];
        last[a] = last[a] < size[a] - 1 - cell[a] ? last[a] : size[a] - 1 - cell[a];
      }
    }
    return true;
  }

  PYSTN_HD Stretched<X> tap_of(int a, Index j) const {
    Stretched<X> tap;
    axis[a].with_kernel([&](const auto& kernel) { tap = axis[a].tap(kernel, j); });
    return tap;
  }

  // Calls body(pixel, weight) for the taps that read a pixel, with sums over all made when it `counts`.
  template <class Body>
  PYSTN_HD void visit(const FootprintJob& /*feet*/, bool slopes, bool /*counts*/, Body&& body) {
    Index at[3], pixel[3] = {};
    for (int a = 0; a < 3; ++a) {
      if (first[a] > last[a]) return;
      at[a] = first[a];
    }
    int a = 2;
    for (;;) {  // axis by axis inwards, and on from the innermost
      pixel[a] = mapped(boundary[a], cell[a] + at[a], size[a]);
      weights[a] = axis[a].weight(tap_of(a, at[a]), sum[a]);
      const bool idle =
          is_zero(weights[a].value) && (!slopes || (is_zero(weights[a].by_p) && is_zero(weights[a].by_s)));
      if (pixel[a] >= 0 && !idle) {
        if (a > 0) {
          --a;
          at[a] = first[a];
          continue;
        }
        body(pixel, weights[0].value * weights[1].value * weights[2].value);
      }
      while (a < 3 && ++at[a] > last[a]) ++a;
      if (a == 3) return;
    }
  }

  PYSTN_HD X normalizer() const { return X(R(1)); }
  PYSTN_HD StretchedProduct<X> outside() const {
    const X one(R(1)), zero(R(0));
    Stretched<X> in[3];
    bool fills[3];
    for (int a = 0; a < 3; ++a) {
      fills[a] = boundary[a] == Boundary::constant;
      in[a] = fills[a] || boundary[a] == Boundary::zeros ? inside[a] : Stretched<X>{one, zero, zero};
    }
    return stretched_outside(in, fills);
  }
  PYSTN_HD X filled() const { return whole ? X(R(0)) : outside().value; }
  PYSTN_HD X cover() const { return StretchedProduct<X>(inside).value; }

  // Adds the tap that is visited, weighed by h, to the sums for the gradient.
  PYSTN_HD void add(X h) {
    for (int a = 0; a < 3; ++a) {
      const X others = h * (weights[(a + 1) % 3].value * weights[(a + 2) % 3].value);
      by_p[a] += weights[a].by_p * others;
      by_s[a] += weights[a].by_s * others;
    }
  }
  PYSTN_HD void expect(R /*to_fill*/, R /*to_mask*/) {}
  PYSTN_HD void add_rest(R to_fill, R to_mask) {
    if (whole) return;
    if (to_fill != R(0)) add(outside(), to_fill);
    if (to_mask == R(0)) return;
    const StretchedProduct<X> share(inside);
    if (value_of(share.value) >= R(0) && value_of(share.value) <= R(1)) add(share, to_mask);
  }
  PYSTN_HD void add(const StretchedProduct<X>& share, R cotangent) {
    for (int a = 0; a < 3; ++a) {
      by_p[a] += share.by_p[a] * cotangent;
      by_s[a] += share.by_s[a] * cotangent;
    }
  }
  PYSTN_HD void gradient(X* to_p, X (*to_footprint)[3]) const {
    for (int a = 0; a < 3; ++a) {
      to_p[a] = by_p[a];
      to_footprint[a][0] = axis[a].moves ? by_s[a] : X(R(0));
    }
  }
};

// ---- Covariances

template <class X>
struct Ellipses {
  using R = RealOf<X>;
  static constexpr bool covariances = true;
  Ellipse<X> ellipse;
  Index cell[3], near[3], size[3];
  Boundary boundary[3];
  EllipseSums<X> all, sums;
  X filled_sum, cover_sum, height, weight, d[3];  // the last three of the tap that is visited
  R fill_cotangent, mask_cotangent;

  template <class I>
  PYSTN_HD bool set(const FootprintJob& feet, FootprintPoint<X, I>& point, bool /*slopes*/) {
    for (int a = 0; a < 3; ++a) {
      size[a] = length_of(feet, a);
      boundary[a] = boundary_of(feet, a);
    }
    if (!ellipse.place(feet.ndim, point.p, point.footprint, size)) return false;
    for (int a = 0; a < 3; ++a) {
      const Index last = ellipse.last[a] > 1 ? ellipse.last[a] : 1;
      cell[a] = reduced_cell(boundary[a], ellipse.cell[a], ellipse.first[a], last, size[a]);
      near[a] = reduced_cell(Boundary::zeros, ellipse.cell[a], ellipse.first[a], last, size[a]);
    }
    all.clear();
    sums.clear();
    filled_sum = cover_sum = X(R(0));
    fill_cotangent = mask_cotangent = R(0);
    return true;
  }

  template <class Body>
  PYSTN_HD void visit(const FootprintJob& feet, bool slopes, bool counts, Body&& body) {
    typename Ellipse<X>::Row row;
    Index first[3], last[3];
    for (int a = 0; a < 3; ++a) {
      first[a] = ellipse.lone ? ellipse.nearest[a] : ellipse.first[a];
      last[a] = ellipse.lone ? ellipse.nearest[a] : ellipse.last[a];
    }
    for (Index z = first[2]; z <= last[2]; ++z)
      for (Index y = first[1]; y <= last[1]; ++y) {
        if (ellipse.lone) {
          row.first = first[0];
          row.last = last[0];
        } else if (!ellipse.row(y, z, row)) {
          continue;
        }
        for (Index x = row.first; x <= row.last; ++x) {
          height = weight = X(R(1));
          if (!ellipse.lone) {
            height = Ellipse<X>::height(ellipse.square_of(row, ellipse.distance(0, x)));
            if (!Ellipse<X>::inside(height)) continue;
            weight = height - X(R(Ellipse<X>::lowest));
          }
          const Index j[3] = {x, y, z};
          Index pixel[3];
          bool inside = true, reads = true, dropped = false;
          for (int a = 0; a < 3; ++a) {
            d[a] = ellipse.distance(a, j[a]);
            pixel[a] = mapped(boundary[a], cell[a] + j[a], size[a]);
            inside = inside && near[a] + j[a] >= 0 && near[a] + j[a] < size[a];
            reads = reads && pixel[a] >= 0;
            dropped = dropped || (pixel[a] < 0 && boundary[a] != Boundary::constant);
          }
          if (counts) {
            add_to(all, R(1), slopes);
            if (inside) cover_sum += weight;
            if (slopes && inside && mask_cotangent != R(0)) add_to(sums, mask_cotangent, true);
            if (!reads && !dropped && feet.sample.fill) {
              filled_sum += weight;
              if (slopes && fill_cotangent != R(0)) add_to(sums, fill_cotangent, true);
            }
          }
          if (reads) body(pixel, weight);
        }
      }
  }

  template <class H>
  PYSTN_HD void add_to(EllipseSums<X>& to, H h, bool slopes) const {
    if (!slopes) {
      to.value += weight * h;
      return;
    }
    const X moved = height * h, first = moved * d[0];
    to.add(d[1], d[2], weight * h, moved, first, first * d[0]);
  }

  PYSTN_HD X normalizer() const { return X(R(1)) / all.value; }
  PYSTN_HD X filled() const { return filled_sum / all.value; }
  PYSTN_HD X cover() const { return cover_sum / all.value; }
  PYSTN_HD void add(X h) { add_to(sums, h, true); }
  PYSTN_HD void expect(R to_fill, R to_mask) {
    fill_cotangent = to_fill;
    mask_cotangent = to_mask;
  }
  PYSTN_HD void add_rest(R /*to_fill*/, R /*to_mask*/) {}
  PYSTN_HD void gradient(X* to_p, X (*to_footprint)[3]) const {
    ellipse_gradient(ellipse, sums, all, to_p, to_footprint);
  }
};

// ---- Directions

template <class X, class I, template <class> class Taps, bool fixed = false>
struct FootprintSampler {
  using R = RealOf<X>;
  static constexpr bool dual = Arithmetic<X>::dual;
  using Point = FootprintPoint<X, I>;

  static PYSTN_HD R load(const SampleArray& from, I i) { return Elements<Any>::load<R>(from.data, Type(from.type), i); }
  static PYSTN_HD void store(const SampleArray& to, I i, R x) { Elements<Any>::store<R>(to.data, Type(to.type), i, x); }
  static PYSTN_HD I offset_of(const FootprintJob& feet, const ImageArray& image, const Index* pixel) {
    I at = 0;
    for (int a = 0; a < feet.ndim; ++a) at += I(pixel[a]) * I(image.axis[a]);
    return at;
  }
  static PYSTN_HD R read(const SampleJob& job, const ImageArray& image, I at, I c) {
    return Elements<Any>::load<R>(image.data, Type(image.type), at + channel_offset(job, image.channel, c));
  }

  // Of the channels layer, layer + layers, ...
  static PYSTN_HD void forward(const FootprintJob& feet, I n, const Place<I>& place, I layer) {
    const SampleJob& job = feet.sample;
    const I layers = I(job.layers), channels = I(job.channels), to = place_in(job, job.output, n, place);
    const bool moves = dual && job.d_input.data;
    Point point;
    Taps<X> taps;
    point.load(feet, Taps<X>::covariances, n, place);
    const bool cut = point.cut || !taps.set(feet, point, false);
    X normalizer(R(1)), filled(cut && !dual ? R(1) : R(0));
    bool counts = true;
    for (I c0 = layer; counts || c0 < channels; c0 += channels_at_once * layers) {
      X sum[channels_at_once];
      PYSTN_UNROLL
      for (int k = 0; k < channels_at_once; ++k) sum[k] = X(R(0));
      if (!cut)
        taps.visit(feet, false, counts, [&](const Index* pixel, X weight) {
          const I at = n * I(job.input.batch) + offset_of(feet, job.input, pixel);
          const I d_at = moves ? n * I(job.d_input.batch) + offset_of(feet, job.d_input, pixel) : I(0);
          PYSTN_UNROLL
          for (int k = 0; k < channels_at_once; ++k) {
            const I c = c0 + k * layers;
            if (c >= channels) break;
            const R u = read(job, job.input, at, c);
            sum[k] += moves ? weight * with_tangent<X>(u, read(job, job.d_input, d_at, c)) : weight * u;
          }
        });
      if (counts && !cut) {
        normalizer = taps.normalizer();
        if (job.fill) filled = taps.filled();
      }
      counts = false;
      PYSTN_UNROLL
      for (int k = 0; k < channels_at_once; ++k) {
        const I c = c0 + k * layers;
        if (c >= channels) break;
        R value = cut ? R(0) : last_of(sum[k] * normalizer);
        if (job.fill && !is_zero(filled)) value += last_of(filled * R(job.fill[c]));
        store(job.output, to + channel_offset(job, job.output.channel, c), value);
      }
    }
    if (job.mask.data && layer == 0)
      store(job.mask, place_in(job, job.mask, n, place), cut ? R(0) : clipped(taps.cover()));
  }

  // The mask, or its tangent.
  static PYSTN_HD R clipped(X cover) {
    const R value = value_of(cover);
    if (value >= R(0) && value <= R(1)) return last_of(cover);
    return dual || value < R(0) ? R(0) : R(1);
  }

  // Gradients to grid and footprint; where the batch shares either, of all its samples.
  static PYSTN_HD void vjp_grid(const FootprintJob& feet, I n0, const Place<I>& place) {
    const SampleJob& job = feet.sample;
    const bool shared_grid = job.grid_batch != job.batch, shared_feet = feet.footprint_batch != job.batch;
    const I n1 = shared_grid || shared_feet ? I(job.batch) : n0 + 1;
    const int columns = Taps<X>::covariances ? feet.ndim : 1;
    R to_grid[3] = {}, to_footprint[3][3] = {};
    for (I n = n0; n < n1; ++n) {
      for (int a = 0; a < 3; ++a) {
        if (!shared_grid) to_grid[a] = R(0);
        for (int b = 0; !shared_feet && b < 3; ++b) to_footprint[a][b] = R(0);
      }
      Point point;
      Taps<X> taps;
      point.load(feet, Taps<X>::covariances, n, place);
      if (!point.cut && taps.set(feet, point, true)) {
        X by_p[3], by_footprint[3][3];
        pull(feet, n, place, taps);
        taps.gradient(by_p, by_footprint);
        for (int a = 0; a < feet.ndim; ++a) {
          to_grid[a] += point.factor[a] * last_of(by_p[a]);
          for (int b = 0; b < columns; ++b) to_footprint[a][b] += last_of(by_footprint[a][b]);
        }
      }
      if (!shared_grid) put_grid(feet, n, place, to_grid);
      if (!shared_feet) put_footprint(feet, n, place, columns, to_footprint);
    }
    if (shared_grid) put_grid(feet, 0, place, to_grid);
    if (shared_feet) put_footprint(feet, 0, place, columns, to_footprint);
  }

  static PYSTN_HD void pull(const FootprintJob& feet, I n, const Place<I>& place, Taps<X>& taps) {
    const SampleJob& job = feet.sample;
    const I from = place_in(job, job.output, n, place), channels = I(job.channels);
    const bool moves = dual && job.d_input.data;
    const R to_mask = job.mask.data ? load(job.mask, place_in(job, job.mask, n, place)) : R(0);
    R to_fill = R(0);
    for (I c = 0; job.fill && c < channels; ++c)
      to_fill += load(job.output, from + channel_offset(job, job.output.channel, c)) * R(job.fill[c]);
    taps.expect(to_fill, to_mask);
    taps.visit(feet, true, true, [&](const Index* pixel, X /*weight*/) {
      const I at = n * I(job.input.batch) + offset_of(feet, job.input, pixel);
      const I d_at = moves ? n * I(job.d_input.batch) + offset_of(feet, job.d_input, pixel) : I(0);
      R h = R(0), dh = R(0);
      for (I c = 0; c < channels; ++c) {
        const R g = load(job.output, from + channel_offset(job, job.output.channel, c));
        h += g * read(job, job.input, at, c);
        if (moves) dh += g * read(job, job.d_input, d_at, c);
      }
      taps.add(with_tangent<X>(h, dh));
    });
    taps.add_rest(to_fill, to_mask);
  }

  static PYSTN_HD void put_number(const SampleJob& job, void* data, I at, R x) {
    if (Type(job.grid_type) == Type::f32)
      static_cast<float*>(data)[at] = float(x);
    else
      static_cast<double*>(data)[at] = double(x);
  }
  static PYSTN_HD void put_grid(const FootprintJob& feet, I n, const Place<I>& place, const R* x) {
    const SampleJob& job = feet.sample;
    if (!job.grad_grid.data) return;
    const I at = Point::place_of(job, job.grad_grid, n, place);
    for (int a = 0; a < feet.ndim; ++a) put_number(job, job.grad_grid.data, at + a * I(job.grad_grid.component), x[a]);
  }
  static PYSTN_HD void put_footprint(const FootprintJob& feet, I n, const Place<I>& place, int columns,
                                     const R (*x)[3]) {
    const FootprintArray& to = feet.grad_footprint;
    if (!to.data) return;
    const I at = Point::place_of(feet.sample, to, n, place);
    for (int a = 0; a < feet.ndim; ++a)
      for (int b = 0; b < columns; ++b)
        put_number(feet.sample, to.data, at + a * I(to.row) + b * I(to.column), x[a][b]);
  }

  // grad_input += output w, or output times the tangent of w.
  static PYSTN_HD void vjp_input(const FootprintJob& feet, I n, const Place<I>& place, I layer) {
    const SampleJob& job = feet.sample;
    const ImageArray& image = job.grad_input;
    Point point;
    Taps<X> taps;
    point.load(feet, Taps<X>::covariances, n, place);
    if (point.cut || !taps.set(feet, point, false)) return;
    if (Taps<X>::covariances) taps.visit(feet, false, true, [](const Index*, X) {});
    const X normalizer = taps.normalizer();
    const I from = place_in(job, job.output, n, place);
    taps.visit(feet, false, false, [&](const Index* pixel, X weight) {
      const R w = last_of(weight * normalizer);
      const I at = n * I(image.batch) + offset_of(feet, image, pixel);
      for (I c = layer; c < I(job.channels); c += I(job.layers)) {
        const R g = load(job.output, from + channel_offset(job, job.output.channel, c));
        add(image, at + channel_offset(job, image.channel, c), g * w);
      }
    });
  }

  static PYSTN_HD void add(const ImageArray& image, I at, R x) {
    if constexpr (fixed)
      add_to_cell(static_cast<Cell*>(image.data)[at], Walk(image.walk), x);
    else if (Type(image.type) == Type::f32)
      atomicAdd(static_cast<float*>(image.data) + at, float(x));
    else
      atomicAdd(static_cast<double*>(image.data) + at, double(x));
  }
};

// A thread has some channels of a sample.
#define PYSTN_FOOTPRINT_KERNEL(kernel, name, arithmetic, fixed)                                                     \
  template <class R, class I, template <class> class Taps>                                                          \
  __global__ void footprint_##kernel(const FootprintJob feet) {                                                     \
    const SampleJob& job = feet.sample;                                                                             \
    const I pixels = I(job.pixels), inner = job.adjacent_layers ? I(job.layers) : I(1);                             \
    const Index count = job.batch * job.pixels * inner;                                                             \
    for (Index turn = first_turn(); turn < count; turn += turn_stride()) {                                          \
      const I sample = I(turn) / inner, n = sample / pixels;                                                        \
      const Place<I> place(job, sample - n * pixels);                                                               \
      FootprintSampler<arithmetic, I, Taps, fixed>::name(feet, n, place, I(turn) - sample * inner + I(blockIdx.y)); \
    }                                                                                                               \
  }

PYSTN_FOOTPRINT_KERNEL(forward, forward, R, false)
PYSTN_FOOTPRINT_KERNEL(jvp, forward, Dual<R>, false)
PYSTN_FOOTPRINT_KERNEL(vjp_input, vjp_input, R, false)
PYSTN_FOOTPRINT_KERNEL(vjp_input_fixed, vjp_input, R, true)
PYSTN_FOOTPRINT_KERNEL(push, vjp_input, Dual<R>, false)
PYSTN_FOOTPRINT_KERNEL(push_fixed, vjp_input, Dual<R>, true)
#undef PYSTN_FOOTPRINT_KERNEL

// A thread has a sample, or where something is shared those of the whole batch.
#define PYSTN_FOOTPRINT_KERNEL(kernel, arithmetic)                                       \
  template <class R, class I, template <class> class Taps>                               \
  __global__ void footprint_##kernel(const FootprintJob feet) {                          \
    const SampleJob& job = feet.sample;                                                  \
    const bool apart = job.grid_batch == job.batch && feet.footprint_batch == job.batch; \
    const I pixels = I(job.pixels);                                                      \
    const Index count = (apart ? job.batch : 1) * job.pixels;                            \
    for (Index turn = first_turn(); turn < count; turn += turn_stride()) {               \
      const I n = I(turn) / pixels;                                                      \
      const Place<I> place(job, I(turn) - n * pixels);                                   \
      FootprintSampler<arithmetic, I, Taps>::vjp_grid(feet, n, place);                   \
    }                                                                                    \
  }

PYSTN_FOOTPRINT_KERNEL(vjp_grid, R)
PYSTN_FOOTPRINT_KERNEL(vjp2_grid, Dual<R>)
#undef PYSTN_FOOTPRINT_KERNEL

}  // namespace pystn::PYSTN_LEVEL
