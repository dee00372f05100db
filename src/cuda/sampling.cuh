// The sampler's kernels: a thread has a sample, and some or all of its channels.
//
// Of the arguments, Job is SampleJob or a PlainJob; T is the images' type, or Any; R the arithmetic's; I that of
// indices, int where they fit; ND the number of axes; `room` the number of taps on each: 1, 2 and 4 are nearest, linear
// and cubic, more is any kernel of so many at most. With `fixed` what is added to is an image of cells.
#pragma once

#include "accumulation.cuh"
#include "sample.cuh"
#include "threads.cuh"

namespace pystn::PYSTN_LEVEL {

// sums += g (x, y, z, 1), with some of its rows.
template <int rows, class R, int columns>
PYSTN_HD void add_outer(const R* g, const R* at, double (&sums)[columns][columns]) {
  for (int r = 0; r < rows; ++r) {
    for (int b = 0; b < columns - 1; ++b) sums[r][b] += double(g[r]) * double(at[b]);
    sums[r][columns - 1] += double(g[r]);
  }
}

template <class Job, class T, class R, class I, int ND, int room, bool fixed = false>
struct Sampler {
  using E = Elements<T>;
  using Taps = Sample<R, I, ND, room>;
  using Source_ = Image<T, R, I, ND>;
  static constexpr bool flat = room <= 2;
  using Flat = FlatTaps<R, I, ND, flat ? room : 1>;
  static constexpr int channels_at_once = flat ? 4 : 1;  // whose loads do not wait for each other

  static PYSTN_HD R load(const SampleArray& from, I i) { return E::template load<R>(from.data, Type(from.type), i); }
  static PYSTN_HD R read(const SampleArray& from, I i) { return E::template read<R>(from.data, Type(from.type), i); }
  static PYSTN_HD void store(const SampleArray& to, I i, R x) { E::template store<R>(to.data, Type(to.type), i, x); }
  static PYSTN_HD R load_mask(const Job& job, I n, const Place<I>& place) {
    return Elements<Any>::load<R>(job.mask.data, Type(job.mask.type), place_in(job, job.mask, n, place));
  }
  static PYSTN_HD void store_mask(const Job& job, I n, const Place<I>& place, R x) {
    Elements<Any>::store<R>(job.mask.data, Type(job.mask.type), place_in(job, job.mask, n, place), x);
  }

  // The samples that one thread walks: those along the depth, of a projection.
  static PYSTN_HD void go_to(const Job& job, Place<I>& place, I depth) {
    if (job.projected) place.at[ND - 1] = depth;
  }
  static PYSTN_HD int& chosen_at(const Job& job, I n, const Place<I>& place, I c) {
    const I at = place_in(job, job.chosen, n, place) + channel_offset(job, job.chosen.channel, c);
    return static_cast<int*>(job.chosen.data)[at];
  }
  // Whether a sample is part of what it is projected to.
  static PYSTN_HD bool takes_part(const Job& job, I n, const Place<I>& place, I depth, I c) {
    return !has_chosen(job) || chosen_at(job, n, place, c) == int(depth);
  }
  // Puts a sample into the output, where samples at other depths may be.
  static PYSTN_HD void store_projected(const Job& job, I n, const Place<I>& place, I depth, I c, I to, R value) {
    if (job.maximum) {
      const R most = depth == 0 ? R(0) : load(job.output, to);
      if (depth != 0 && !exceeds(value, most)) return;
      chosen_at(job, n, place, c) = int(depth);
      store(job.output, to, value);
    } else if (has_chosen(job)) {
      if (takes_part(job, n, place, depth, c)) store(job.output, to, value);
    } else {
      store(job.output, to, depth == 0 ? value : value + load(job.output, to));
    }
  }

  static PYSTN_HD void forward(const Job& job, I n0, Place<I>& place, I layer) {
    const I n1 = sums_batch(job) ? I(job.batch) : n0 + 1;
    for (I n = n0; n < n1; ++n)
      for (I depth = 0; depth < I(job.depth); ++depth) {
        go_to(job, place, depth);
        R x[ND];
        load_coordinates<R, I, ND>(job, n, place, x);
        if (has_mask(job) && layer == 0) {
          Taps cover;
          cover.template cover<0>(job, x);
          store_mask(job, n, place, cover.coverage(0).value);
        }
        Taps taps;
        taps.template place<0>(job, x);
        const Source_ image(job.input, n);
        Flat products;
        if constexpr (flat) products.template place<false>(taps, image.stride);
        const R filled = !job.fill ? R(0) : taps.cut ? R(1) : taps.whole ? R(0) : taps.outside(job, 0).value;
        const I first = place_in(job, job.output, sums_batch(job) ? I(0) : n, place);
        PYSTN_UNROLL_BY(channels_at_once)
        for (I c = layer; c < I(job.channels); c += I(job.layers)) {
          const I channel = channel_offset(job, image.channel, c);
          R value = R(0);
          if constexpr (flat)
            value = image.gather(products, channel, products.weight);
          else if (!taps.cut)
            value = image.template gather<0, ND>(taps, channel).value;
          if (filled != R(0)) value += filled * R(job.fill[c]);
          const I to = first + channel_offset(job, job.output.channel, c);
          if (job.projected)
            store_projected(job, n, place, depth, c, to, value);
          else
            store(job.output, to, !sums_batch(job) || n == n0 ? value : value + load(job.output, to));
        }
      }
  }

  // output = V(Z) + the derivative of V(U) along d_grid and the parameters' tangents
  static PYSTN_HD void jvp(const Job& job, I n, Place<I>& place, I layer) {
    bool turns = has_steps(job);
    for (int a = 0; a < ND; ++a) turns = turns || job.d_kernel[a];
    const Source_ image(job.input, n), tangent(job.d_input, n);
    for (I depth = 0; depth < I(job.depth); ++depth) {
      go_to(job, place, depth);
      R x[ND], d[ND] = {};
      load_coordinates<R, I, ND>(job, n, place, x);
      if (has_steps(job)) load_tangents<R, I, ND>(job, n, place, d);
      if (has_mask(job) && layer == 0) {
        Taps cover;
        cover.template cover<1>(job, x);
        cover.turn(job, d);
        const Jet<R, ND> share = cover.coverage(1);
        R sum = R(0);
        for (int a = 0; a < ND; ++a) sum += share.slope[a];
        store_mask(job, n, place, sum);
      }
      Taps taps;
      taps.template place<1>(job, x);
      taps.turn(job, d);
      Flat moved, products;
      R along[Flat::count];
      if constexpr (flat) {
        products.template place<true>(taps, image.stride);
        moved.template place<false>(taps, tangent.stride);
        for (int k = 0; k < Flat::count; ++k) {
          along[k] = R(0);
          for (int a = 0; a < ND; ++a) along[k] += products.slope[a][k];
        }
      }
      R filled = R(0), d_filled = taps.cut ? R(1) : R(0);
      if ((job.fill || job.d_fill) && !taps.cut && !taps.whole) {
        const Jet<R, ND> share = taps.outside(job, 1);
        d_filled = share.value;
        for (int a = 0; a < ND; ++a) filled += share.slope[a];
      }
      const I first = place_in(job, job.output, n, place);
      for (I c = layer; c < I(job.channels); c += I(job.layers)) {
        R value = R(0);
        if (!taps.cut && job.d_input.data) {
          const I channel = channel_offset(job, tangent.channel, c);
          if constexpr (flat)
            value = tangent.gather(moved, channel, moved.weight);
          else
            value = tangent.template gather<0, ND>(taps, channel).value;
        }
        if (!taps.cut && turns) {
          const I channel = channel_offset(job, image.channel, c);
          if constexpr (flat) {
            value += image.gather(products, channel, along);
          } else {
            const Jet<R, ND> slopes = image.template gather<1, ND>(taps, channel);
            for (int a = 0; a < ND; ++a) value += slopes.slope[a];
          }
        }
        if (job.fill && filled != R(0)) value += filled * R(job.fill[c]);
        if (job.d_fill && d_filled != R(0)) value += d_filled * R(job.d_fill[c]);
        const I to = first + channel_offset(job, job.output.channel, c);
        if (job.projected)
          store_projected(job, n, place, depth, c, to, value);
        else
          store(job.output, to, value);
      }
    }
  }

  // to[a] = sum_c output_c V_a(U_c), in the units of the coordinates; over the batch too if it shares them. Of every so
  // many channels, from one on; the mask is the first one's. With `adds`, grad_input += output w as well.
  template <bool adds>
  static PYSTN_HD void slopes(const Job& job, I n0, const Place<I>& place, I depth, I layer, I layers, R* to) {
    const I n1 = job.grid_batch == 1 ? I(job.batch) : n0 + 1;
    R x[ND], through_mask[ND] = {};
    for (int a = 0; a < ND; ++a) to[a] = R(0);
    load_coordinates<R, I, ND>(job, n0, place, x);
    if (has_mask(job) && layer == 0) {
      Taps cover;
      cover.template cover<1>(job, x);
      const Jet<R, ND> share = cover.coverage(1);
      for (I n = n0; n < n1; ++n) {
        const R g = load_mask(job, n, place);
        for (int a = 0; a < ND; ++a) through_mask[a] += share.slope[a] == R(0) ? R(0) : g * share.slope[a];
      }
    }
    Taps taps;
    taps.template place<1>(job, x);
    const bool reads = taps.reads(), fills = taps.reads_fill(job);
    const Jet<R, ND> share = fills ? taps.outside(job, 1) : Jet<R, ND>();
    Flat products;
    for (I n = n0; (reads || fills) && n < n1; ++n) {
      const Source_ image(job.input, n);
      if constexpr (flat) products.template place<true>(taps, image.stride);
      const I first = place_in(job, job.output, n, place);
      PYSTN_UNROLL_BY(channels_at_once)
      for (I c = layer; c < I(job.channels); c += layers) {
        if (!takes_part(job, n, place, depth, c)) continue;
        R slope[ND] = {};
        const I channel = channel_offset(job, image.channel, c);
        if constexpr (flat) {
          R value[Flat::count];
          image.load(products, channel, value);
          for (int k = 0; k < Flat::count; ++k)
            for (int a = 0; a < ND; ++a) slope[a] += products.slope[a][k] * value[k];
        } else if (reads) {
          const Jet<R, ND> moved = image.template gather<1, ND>(taps, channel);
          for (int a = 0; a < ND; ++a) slope[a] = moved.slope[a];
        }
        for (int a = 0; fills && a < ND; ++a) slope[a] += R(job.fill[c]) * share.slope[a];
        const R g = read(job.output, first + channel_offset(job, job.output.channel, c));
        for (int a = 0; a < ND; ++a) to[a] += g * slope[a];
        if (adds) add_sample(job, taps, n, c, g);
      }
    }
    deliver(taps, to, through_mask);
  }

  // From positions to coordinates.
  static PYSTN_HD void deliver(const Taps& taps, R* to, const R* through_mask) {
    for (int a = 0; a < ND; ++a) {
      const R factor = taps.axis[a].factor;
      to[a] = (factor == R(0) ? R(0) : factor * to[a]) + through_mask[a];
    }
  }

  static PYSTN_HD void store_grad_grid(const Job& job, I n, const Place<I>& place, const R* x) {
    const I at = n * I(job.grad_grid.batch) + place.offset(job, job.grad_grid.axis);
    for (int a = 0; a < ND; ++a) {
      const I i = at + a * I(job.grad_grid.component);
      if (Type(job.grid_type) == Type::f32)
        static_cast<float*>(job.grad_grid.data)[i] = float(x[a]);
      else
        static_cast<double*>(job.grad_grid.data)[i] = double(x[a]);
    }
  }

  // Adds the gradient to a sample's coordinates to sums for the matrix that they were made with: g (x, y, z, 1).
  static PYSTN_HD void add_to_matrix(const Job& job, I n, Place<I>& place, double (&sums)[ND + 1][ND + 1]) {
    for (I depth = 0; depth < I(job.depth); ++depth) {
      go_to(job, place, depth);
      R g[ND + 1];
      slopes<false>(job, n, place, depth, 0, 1, g);
      g[ND] = R(0);
      const LatticePoint<R, I, ND> point(job, n, place);
      if constexpr (ND == 2)
        if (is_projective(job)) {
          const MatrixRow<R> row = point.under(job, job.source.theta);
          const R q = row(2, point.at[0]);
          const R x = horizon_of<R>(job).project(row(0, point.at[0]), q);
          const R y = horizon_of<R>(job).project(row(1, point.at[0]), q);
          const bool lost = !is_finite(x) || !is_finite(y);
          g[0] = lost ? R(0) : g[0] / q;
          g[1] = lost ? R(0) : g[1] / q;
          g[2] = lost ? R(0) : pulled_to_q(g[0], g[1], x, y);
        }
      add_outer<ND + 1>(g, point.at, sums);
    }
  }

  // slope[a] = V_a(Z_c) + sum_b step_b V_ab(U_c)
  static PYSTN_HD void second_slopes(const Job& job, const Taps& taps, const Source_& image, const Source_& tangent,
                                     I c, const R* step, const Jet<R, ND>& share, R* slope) {
    for (int a = 0; a < ND; ++a) slope[a] = R(0);
    if (job.d_input.data) {
      const Jet<R, ND> moved = tangent.template gather<1, ND>(taps, channel_offset(job, tangent.channel, c));
      for (int a = 0; a < ND; ++a) slope[a] = moved.slope[a];
    }
    if (!job.d_grid.data) return;
    const Jet<R, ND> curved = image.template gather<2, ND>(taps, channel_offset(job, image.channel, c));
    for (int a = 0; a < ND; ++a)
      for (int b = 0; b < ND; ++b)
        slope[a] += step[b] * (curved.curve[a][b] + (job.fill ? R(job.fill[c]) * share.curve[a][b] : R(0)));
  }

  // grad_grid_a = sum_c output_c (V_a(Z_c) + sum_b d_grid_b V_ab(U_c))
  static PYSTN_HD void vjp2_grid(const Job& job, I n0, const Place<I>& place) {
    const I n1 = job.grid_batch == 1 ? I(job.batch) : n0 + 1;
    R x[ND], step[ND], sum[ND] = {}, through_mask[ND] = {};
    load_coordinates<R, I, ND>(job, n0, place, x);
    if (has_mask(job) && job.d_grid.data) {
      Taps cover;
      cover.template cover<2>(job, x);
      const Jet<R, ND> share = cover.coverage(2);
      load_stored<R, I, ND>(job, job.d_grid, n0, place, step);
      for (I n = n0; n < n1; ++n)
        for (int a = 0; a < ND; ++a)
          for (int b = 0; b < ND; ++b) through_mask[a] += load_mask(job, n, place) * step[b] * share.curve[a][b];
    }
    Taps taps;
    taps.template place<2>(job, x);
    taps.steps(job, n0, place, step);
    const Jet<R, ND> share = taps.reads_fill(job) ? taps.outside(job, 2) : Jet<R, ND>();
    for (I n = n0; !taps.cut && n < n1; ++n) {
      const Source_ image(job.input, n), tangent(job.d_input, n);
      const I first = place_in(job, job.output, n, place);
      for (I c = 0; c < I(job.channels); ++c) {
        R slope[ND];
        const R g = read(job.output, first + channel_offset(job, job.output.channel, c));
        second_slopes(job, taps, image, tangent, c, step, share, slope);
        for (int a = 0; a < ND; ++a) sum[a] += g * slope[a];
      }
    }
    deliver(taps, sum, through_mask);
    store_grad_grid(job, n0, place, sum);
  }

  // gradient_a = V_a(U), in the units of the grid
  static PYSTN_HD void gradient(const Job& job, I n, const Place<I>& place, I layer) {
    R x[ND];
    load_coordinates<R, I, ND>(job, n, place, x);
    Taps taps;
    taps.template place<1>(job, x);
    const Source_ image(job.input, n);
    const bool reads = taps.reads(), fills = taps.reads_fill(job);
    const Jet<R, ND> share = fills ? taps.outside(job, 1) : Jet<R, ND>();
    const I first = place_in(job, job.gradient, n, place);
    for (I c = layer; c < I(job.channels); c += I(job.layers)) {
      Jet<R, ND> moved;
      if (reads) moved = image.template gather<1, ND>(taps, channel_offset(job, image.channel, c));
      const I to = first + channel_offset(job, job.gradient.channel, c);
      for (int a = 0; a < ND; ++a) {
        const R f = taps.axis[a].factor, slope = moved.slope[a] + (fills ? R(job.fill[c]) * share.slope[a] : R(0));
        store(job.gradient, to + a * I(job.gradient.component), f == R(0) || !(reads || fills) ? R(0) : f * slope);
      }
    }
  }

  // gradient_a = V_a(Z) + sum_b d_grid_b V_ab(U)
  static PYSTN_HD void gradient_jvp(const Job& job, I n, const Place<I>& place, I layer) {
    R x[ND], step[ND];
    load_coordinates<R, I, ND>(job, n, place, x);
    Taps taps;
    taps.template place<2>(job, x);
    taps.steps(job, n, place, step);
    const Source_ image(job.input, n), tangent(job.d_input, n);
    const Jet<R, ND> share = taps.reads_fill(job) ? taps.outside(job, 2) : Jet<R, ND>();
    const I first = place_in(job, job.gradient, n, place);
    for (I c = layer; c < I(job.channels); c += I(job.layers)) {
      R slope[ND] = {};
      if (!taps.cut) second_slopes(job, taps, image, tangent, c, step, share, slope);
      const I to = first + channel_offset(job, job.gradient.channel, c);
      for (int a = 0; a < ND; ++a) {
        const R f = taps.axis[a].factor;
        store(job.gradient, to + a * I(job.gradient.component), f == R(0) || taps.cut ? R(0) : f * slope[a]);
      }
    }
  }

  // grad_grid_b = sum_c sum_a gradient_ca V_ab(U_c)
  static PYSTN_HD void gradient_vjp_grid(const Job& job, I n0, const Place<I>& place) {
    const I n1 = job.grid_batch == 1 ? I(job.batch) : n0 + 1;
    R x[ND], sum[ND] = {}, none[ND] = {};
    load_coordinates<R, I, ND>(job, n0, place, x);
    Taps taps;
    taps.template place<2>(job, x);
    const Jet<R, ND> share = taps.reads_fill(job) ? taps.outside(job, 2) : Jet<R, ND>();
    for (I n = n0; !taps.cut && n < n1; ++n) {
      const Source_ image(job.input, n);
      const I first = place_in(job, job.gradient, n, place);
      for (I c = 0; c < I(job.channels); ++c) {
        const Jet<R, ND> curved = image.template gather<2, ND>(taps, channel_offset(job, image.channel, c));
        const I from = first + channel_offset(job, job.gradient.channel, c);
        for (int a = 0; a < ND; ++a) {
          const R f = taps.axis[a].factor;
          if (f == R(0)) continue;
          const R g = f * read(job.gradient, from + a * I(job.gradient.component));
          for (int b = 0; b < ND; ++b)
            sum[b] += g * (curved.curve[a][b] + (job.fill ? R(job.fill[c]) * share.curve[a][b] : R(0)));
        }
      }
    }
    deliver(taps, sum, none);
    store_grad_grid(job, n0, place, sum);
  }

  static PYSTN_HD void add(const ImageArray& image, I at, R value) {
    if constexpr (fixed)
      add_to_cell(static_cast<Cell*>(image.data)[at], Walk(image.walk), value);
    else if constexpr (E::wide)
      atomicAdd(static_cast<T*>(image.data) + at, T(value));
    else if (Type(image.type) == Type::f32)
      atomicAdd(static_cast<float*>(image.data) + at, float(value));
    else
      atomicAdd(static_cast<double*>(image.data) + at, double(value));
  }

  // Adds value w + sum_a slope_a w_a to the taps of a sample on the first L axes.
  template <bool slopes, int L>
  static PYSTN_HD void scatter(const ImageArray& image, const Taps& taps, I at, R value, const R* slope) {
    if constexpr (L == 0) {
      add(image, at, value);
    } else {
      const AxisTaps<R, I, room>& axis = taps.axis[L - 1];
      for (int k = 0; k < axis.count(); ++k) {
        if (axis.index[k] < 0) continue;
        R inner[ND], next = value * axis.w[k];
        if (slopes) {
          next += slope[L - 1] * axis.dw[k];
          for (int a = 0; a < L - 1; ++a) inner[a] = slope[a] * axis.w[k];
        }
        scatter<slopes, L - 1>(image, taps, at + axis.index[k] * I(image.axis[L - 1]), next, inner);
      }
    }
  }

  // A channel's grad_input += g w
  static PYSTN_HD void add_sample(const Job& job, const Taps& taps, I n, I c, R g) {
    const ImageArray& image = job.grad_input;
    scatter<false, ND>(image, taps, n * I(image.batch) + channel_offset(job, image.channel, c), g, nullptr);
  }

  // grad_input += output w
  static PYSTN_HD void vjp_input(const Job& job, I n, Place<I>& place, I layer) {
    for (I depth = 0; depth < I(job.depth); ++depth) {
      go_to(job, place, depth);
      R x[ND];
      load_coordinates<R, I, ND>(job, n, place, x);
      Taps taps;
      taps.template place<0>(job, x);
      if (!taps.reads()) continue;
      const I first = place_in(job, job.output, n, place);
      PYSTN_UNROLL_BY(channels_at_once)
      for (I c = layer; c < I(job.channels); c += I(job.layers)) {
        if (!takes_part(job, n, place, depth, c)) continue;
        add_sample(job, taps, n, c, read(job.output, first + channel_offset(job, job.output.channel, c)));
      }
    }
  }

  // grad_input += output w + sum_a (values d_grid_a + gradient_a) w_a
  static PYSTN_HD void push(const Job& job, I n, const Place<I>& place, I layer) {
    const ImageArray& image = job.grad_input;
    R x[ND], step[ND];
    load_coordinates<R, I, ND>(job, n, place, x);
    Taps taps;
    taps.template place<1>(job, x);
    if (taps.cut) return;
    taps.steps(job, n, place, step);
    for (I c = layer; c < I(job.channels); c += I(job.layers)) {
      const auto at = [&](const SampleArray& samples) {
        return place_in(job, samples, n, place) + channel_offset(job, samples.channel, c);
      };
      const R value = job.output.data ? read(job.output, at(job.output)) : R(0);
      R slope[ND] = {};
      if (job.values.data) {
        const R v = read(job.values, at(job.values));
        for (int a = 0; a < ND; ++a) slope[a] = step[a] == R(0) ? R(0) : v * step[a];
      }
      for (int a = 0; job.gradient.data && a < ND; ++a) {
        const R f = taps.axis[a].factor;
        if (f != R(0)) slope[a] += f * read(job.gradient, at(job.gradient) + a * I(job.gradient.component));
      }
      scatter<true, ND>(image, taps, n * I(image.batch) + channel_offset(job, image.channel, c), value, slope);
    }
  }

  // Adds to a row of sums for the gradients to fill value and kernels.
  static PYSTN_HD void vjp_options(const Job& job, I n, const Place<I>& place, double* partial) {
    R x[ND];
    load_coordinates<R, I, ND>(job, n, place, x);
    Taps taps;
    taps.template place<0>(job, x);
    const Source_ image(job.input, n);
    const I first = place_in(job, job.output, n, place);
    const auto cotangent = [&](I c) { return read(job.output, first + channel_offset(job, job.output.channel, c)); };
    const R filled = taps.cut ? R(1) : taps.whole ? R(0) : taps.outside(job, 0).value;
    double fill = 0;  // sum_c g_c fill_c
    for (I c = 0; c < I(job.channels) && (filled != R(0) || job.fill); ++c) {
      const double g = cotangent(c);
      if (filled != R(0)) partial[c] += g * filled;
      if (job.fill) fill += g * job.fill[c];
    }
    if (taps.cut || job.partial_row == job.channels) return;
    R by_weight[ND][room] = {};
    add_by_weight(taps, by_weight, [&](const Index* index) {
      R sum = R(0);
      I offset = 0;
      for (int a = 0; a < ND; ++a) offset += I(index[a]) * image.stride[a];
      for (I c = 0; c < I(job.channels); ++c)
        sum += cotangent(c) * image(channel_offset(job, image.channel, c) + offset);
      return sum;
    });
    if (fill != 0 && !taps.whole) add_fill(job, taps, R(fill), by_weight);
    if (has_mask(job)) {
      Taps cover;
      cover.template cover<0>(job, x);
      const R share = cover.weight_inside(0).value, g = load_mask(job, n, place);
      R by_cover[ND][room] = {};
      if (share >= R(0) && share <= R(1)) add_by_weight(cover, by_cover, [&](const Index*) { return g; });
      for (int a = 0; a < ND; ++a)
        for (int k = 0; k < taps.axis[a].count(); ++k) by_weight[a][k] += by_cover[a][k];
    }
    double* to = partial + job.channels;
    for (int a = 0; a < ND; ++a) {
      if constexpr (room >= 4)
        with_parametric_kernel<R>(kernel_of(job, a), [&](const auto& kernel) {
          R t;
          cell_and_phase(kernel, taps.axis[a].position, t);
          kernel.pull(t, by_weight[a], to);
        });
      to += job.kernel[a].parameters;
    }
  }

  static PYSTN_HD void add_fill(const Job& job, const Taps& taps, R fill, R (&by_weight)[ND][room]) {
    R all[ND][3], inside[ND][3];
    bool fills[ND];
    for (int a = 0; a < ND; ++a) {
      fills[a] = boundary_of(job, a) == Boundary::constant;
      taps.axis[a].sum(true, inside[a], 0);
      taps.axis[a].sum(!fills[a], all[a], 0);
    }
    add_fill_by_weight(taps, all, inside, fills, fill, by_weight);
  }
};

// Kernels whose threads have a sample each, of the grid's batch. All counts fit I.
#define PYSTN_SAMPLE_KERNEL(name)                                          \
  template <class Job, class T, class R, class I, int ND, int room>        \
  __global__ void name(const Job job) {                                    \
    const Index count = job.grid_batch * job.pixels;                       \
    const I pixels = I(job.pixels);                                        \
    for (Index turn = first_turn(); turn < count; turn += turn_stride()) { \
      const I n = quotient(I(turn), pixels);                               \
      const Place<I> place(job, I(turn) - n * pixels);                     \
      Sampler<Job, T, R, I, ND, room>::name(job, n, place);                \
    }                                                                      \
  }

PYSTN_SAMPLE_KERNEL(vjp2_grid)
PYSTN_SAMPLE_KERNEL(gradient_vjp_grid)
#undef PYSTN_SAMPLE_KERNEL

// The gradient to the grid; with `adds` that to the image too, in one walk over the samples. Some lanes of a warp, a
// power of two, share the channels of a sample, and whole warps take their turns.
template <bool adds, class Job, class T, class R, class I, int ND, int room>
PYSTN_HD void pull_grid(const Job& job) {
  const I lanes = I(job.layers), pixels = I(job.pixels);
  const Index count = job.grid_batch * job.pixels * lanes, lane = threadIdx.x % 32;
  for (Index first = first_turn() - lane; first < count; first += turn_stride()) {
    const bool active = first + lane < count;
    const I turn = active ? I(first + lane) : I(0), sample = quotient(turn, lanes), n = quotient(sample, pixels);
    const Place<I> place(job, sample - n * pixels);
    R slopes[ND] = {};
    if (active)
      Sampler<Job, T, R, I, ND, room>::template slopes<adds>(job, n, place, 0, turn - sample * lanes, lanes, slopes);
    for (int apart = int(lanes) / 2; apart > 0; apart /= 2)
      for (int a = 0; a < ND; ++a) slopes[a] += __shfl_xor_sync(all_lanes, slopes[a], apart);
    if (active && turn == sample * lanes) Sampler<Job, T, R, I, ND, room>::store_grad_grid(job, n, place, slopes);
  }
}
template <class Job, class T, class R, class I, int ND, int room>
__global__ void vjp_grid(const Job job) {
  pull_grid<false, Job, T, R, I, ND, room>(job);
}
template <class Job, class T, class R, class I, int ND, int room>
__global__ void vjp(const Job job) {
  pull_grid<true, Job, T, R, I, ND, room>(job);
}

// Kernels whose threads have some channels of a sample, of the output's batch or that of all.
#define PYSTN_CHANNEL_KERNEL(kernel, name, images, fixed)                                                 \
  template <class Job, class T, class R, class I, int ND, int room>                                       \
  __global__ void kernel(const Job job) {                                                                 \
    const I pixels = I(job.pixels), inner = job.adjacent_layers ? I(job.layers) : I(1);                   \
    const Index count = (images) * job.pixels * inner;                                                    \
    for (Index turn = first_turn(); turn < count; turn += turn_stride()) {                                \
      const I sample = quotient(I(turn), inner), n = quotient(sample, pixels);                            \
      Place<I> place(job, sample - n * pixels);                                                           \
      Sampler<Job, T, R, I, ND, room, fixed>::name(job, n, place, I(turn) - sample * inner + blockIdx.y); \
    }                                                                                                     \
  }

PYSTN_CHANNEL_KERNEL(forward, forward, job.output_batch, false)
PYSTN_CHANNEL_KERNEL(jvp, jvp, job.batch, false)
PYSTN_CHANNEL_KERNEL(gradient, gradient, job.batch, false)
PYSTN_CHANNEL_KERNEL(gradient_jvp, gradient_jvp, job.batch, false)
PYSTN_CHANNEL_KERNEL(vjp_input, vjp_input, job.batch, false)
PYSTN_CHANNEL_KERNEL(vjp_input_fixed, vjp_input, job.batch, true)
PYSTN_CHANNEL_KERNEL(push, push, job.batch, false)
PYSTN_CHANNEL_KERNEL(push_fixed, push, job.batch, true)
#undef PYSTN_CHANNEL_KERNEL

// A thread has a row of sums, and every so many samples.
template <class Job, class T, class R, class I, int ND, int room>
__global__ void vjp_options(const Job job) {
  const Index group = first_turn(), count = job.batch * job.pixels;
  if (group >= job.groups) return;
  for (Index turn = group; turn < count; turn += job.groups) {
    const Place<I> place(job, I(turn % job.pixels));
    Sampler<Job, T, R, I, ND, room>::vjp_options(job, I(turn / job.pixels), place,
                                                 job.partial + group * job.partial_row);
  }
}

// The sums of the threads of a block added up, into the block's row of `partial`.
template <class Job, int columns>
PYSTN_HD void store_partial(const Job& job, const double (&sums)[columns][columns],
                            double (&of_warps)[columns * columns][block_threads / 32]) {
  const int entries = (columns - 1 + is_projective(job)) * columns, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  PYSTN_UNROLL
  for (int e = 0; e < columns * columns; ++e) {
    if (e >= entries) break;
    const double sum = warp_sum(sums[e / columns][e % columns]);
    if (lane == 0) of_warps[e][warp] = sum;
  }
  __syncthreads();
  if (int(threadIdx.x) < entries) {
    double sum = 0;
    for (int w = 0; w < block_threads / 32; ++w) sum += of_warps[threadIdx.x][w];
    job.source.partial[Index(blockIdx.x) * entries + threadIdx.x] = sum;
  }
}

// partial[matrix, chunk] = the sum of g (x, y, z, 1) over a chunk of the samples of a matrix. A block has a chunk.
template <class Job, class T, class R, class I, int ND, int room>
__global__ void vjp_matrix(const Job job) {
  const Index matrix = blockIdx.x / job.source.chunks, chunk = blockIdx.x % job.source.chunks;
  const Index pixels = job.pixels / job.source.count;  // of a matrix
  const I n = I(matrix / job.source.count);
  double sums[ND + 1][ND + 1] = {};
  for (Index pixel = chunk * block_threads + threadIdx.x; pixel < pixels; pixel += job.source.chunks * block_threads) {
    Place<I> place(job, I(matrix % job.source.count * pixels + pixel));
    Sampler<Job, T, R, I, ND, room>::add_to_matrix(job, n, place, sums);
  }
  __shared__ double of_warps[(ND + 1) * (ND + 1)][block_threads / 32];
  store_partial(job, sums, of_warps);
}

struct ChunksJob {
  const double* partial;  // (matrices, chunks, entries)
  void* sums;             // (matrices, entries)
  Index matrices, chunks, entries;
};

// The sums over the chunks, a warp for each.
template <class R>
__global__ void sum_chunks(const ChunksJob job) {
  const Index at = first_turn() / 32, lane = threadIdx.x % 32;
  if (at >= job.matrices * job.entries) return;
  const double* const from = job.partial + at / job.entries * job.chunks * job.entries + at % job.entries;
  double sum = 0;
  for (Index chunk = lane; chunk < job.chunks; chunk += 32) sum += from[chunk * job.entries];
  sum = warp_sum(sum);
  if (lane == 0) static_cast<R*>(job.sums)[at] = R(sum);
}

}  // namespace pystn::PYSTN_LEVEL
