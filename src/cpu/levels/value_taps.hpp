// The taps of a run whose values alone are wanted: of the kernels that most calls have, a shorter way than that of Run,
// to the same bits. It knows pixels whose taps all are in the image, and those that none is; the few others go the way
// of sampling.hpp.
#pragma once

#include "sampling.hpp"

namespace pystn::PYSTN_LEVEL {

// T: of the image's elements; R: of the arithmetic; S taps on each of ND axes; `multiplied`: their weights are;
// order 1 has slopes too.
template <class T, class R, int S, int ND, bool multiplied, int order = 0>
struct ValueTaps {
  static constexpr bool bytes = sizeof(T) == 1;  // none of which is no number
  static constexpr int tables = multiplied ? power(S, ND) : 1, axes = multiplied ? 1 : ND;
  static constexpr int sloped = order ? ND : 1, changes = order && S > 2 ? S : 1;  // those of linear are -1 and 1

  alignas(64) int first[strip_columns];                           // offset of the first tap
  alignas(64) R w[axes][multiplied ? 1 : S][strip_columns];       // weights on the axes
  alignas(64) R product[tables][multiplied ? strip_columns : 1];  // of all axes, in their place
  alignas(64) R dw[sloped][changes][strip_columns];               // slopes of the weights
  alignas(64) R factor[sloped][strip_columns];                    // d position / d coordinate
  alignas(64) Flag plain[strip_columns];                          // all that is read is in the image
  alignas(64) Flag dark[strip_columns];                           // the pixel is 0: no tap is in the image
  Flag all;                                                       // every pixel is plain
  // Where taps outside read 0, and not every pixel is plain, `inside` says which those are.
  static constexpr bool masks = !multiplied && !bytes;
  bool drops;
  alignas(64) Flag inside[masks ? ND : 1][S][strip_columns];
  Run<R, ND> run;

  // `last` is the first tap of a pixel whose reading ends with the image.
  explicit ValueTaps(const SampleJob& job, int last = 0x7fffffff) : last(last) {
    constexpr Mode mode = S == 1 ? Mode::nearest : S == 2 ? Mode::linear : Mode::cubic;
    known = Cutoff(job.cutoff) == Cutoff::none &&
            (order == 0 || S != 2 || Subgradient(job.subgradient) == Subgradient::right);
    zeros = !job.fill;
    are_of(job.input, 0, job.size[ND - 1]);
    dropping = masks && zeros;
    for (int a = 0; a < ND; ++a) {
      const Boundary boundary = Boundary(job.boundary[a]);
      known = known && Mode(job.kernel[a].mode) == mode && (S > 1 || !job.kernel[a].variant) &&
              (S == 4 || job.boundary[a] == job.boundary[0]);
      zeros = zeros && (boundary == Boundary::zeros || boundary == Boundary::constant);
      dropping = dropping && known && (S > 2 ? zeros : after_fold(boundary) == Boundary::zeros);
    }
  }

  // Taps of another image than the input, in a band of the slowest axis.
  void are_of(const ImageArray& array, int64_t from, int64_t to) {
    image = &array;
    low = int(from);
    high = int(to);
  }

  // For whole blocks of so many pixels: those beyond the span are its last again. Whether all that is not plain is 0 or
  // masked.
  bool place_all_or_none(const SampleJob& job, int64_t n, const Span& span, int lanes = 1) {
    drops = dropping;
    return known && place_known(job, n, span, lanes) && (all || drops);
  }

  // The same, any taps.
  PYSTN_APART void place(const SampleJob& job, int64_t n, const Span& span, int lanes = 1) {
    drops = dropping;
    if (known && place_known(job, n, span, lanes)) return;
    drops = false;
    place_any(job, n, span, lanes);
  }

  const R* factor_of(int a) const { return factor[a]; }

  // The pixels of a span that are neither plain nor dark; returns the span from the first of them to the last.
  Span others(const Span& span, Flag* other) const {
    int begin = span.count, end = 0;
    for (int i = 0; i < span.count; ++i) {
      other[i] = !(plain[i] | dark[i]);
      if (!other[i]) continue;
      begin = begin < i ? begin : i;
      end = i + 1;
    }
    return Span{span.outer, span.row, span.column + begin, 1, end - begin};
  }

 private:
  const ImageArray* image;
  int last, low, high;
  bool known, zeros, dropping;

  bool place_known(const SampleJob& job, int64_t n, const Span& span, int lanes) {
    alignas(64) R x[ND][strip_columns];
    const int count = (span.count + lanes - 1) / lanes * lanes;
    for (int a = 0; a < ND; ++a) {
      load_coordinates(job, n, span, a, x[a]);
      for (int i = span.count; i < count; ++i) x[a][i] = x[a][span.count - 1];
    }
    bool within = true;
    if constexpr (S <= 2) {
      with_fold(Boundary(job.boundary[0]), [&](auto fold) {
        using By = Projection<R, decltype(fold)::template Fold>;
        const auto position = [](const By& by, R at, R& factor)
                                  __attribute__((always_inline)) { return by.template operator()<false>(at, factor); };
        PerAxis<By> by(job);
        for (int a = 0; a < ND; ++a) by[a].origin = R(0);
        if constexpr (By::Folding::periodic)
          for (int a = 0; a < ND; ++a)
            for (int i = 0; i < count; ++i) within = within & by[a].fold.within(by[a].normalize(x[a][i]));
        if (!within) return;
        if constexpr (S == 1)
          place_all(job, count, x[0], x[ND > 1 ? 1 : 0], x[ND - 1], PerAxis<TiesToEven>(job), by, position);
        else
          place_all(job, count, x[0], x[ND > 1 ? 1 : 0], x[ND - 1], PerAxis<ToTheRight>(job), by, position);
      });
    } else {
      // Taps that the boundary moves are not plain: here it is enough that positions are small numbers.
      const auto position = [](const Clipped& by, R at, R& factor) __attribute__((always_inline)) {
        const R p = by.normalize(at);
        factor = by.normalize.scale;
        return by.bounds.reduce(is_finite(p) ? p : outside<R>() - R(S));
      };
      place_all(job, count, x[0], x[ND > 1 ? 1 : 0], x[ND - 1], PerAxis<Keys>(job), PerAxis<Clipped>(job), position);
    }
    return within;
  }

  // One for each axis.
  template <int>
  struct Axes {};
  template <class One>
  struct PerAxis {
    One of[ND];
    explicit PerAxis(const SampleJob& job) : PerAxis(job, Axes<ND>{}) {}
    PerAxis(const SampleJob& job, Axes<1>) : of{One(job, 0)} {}
    PerAxis(const SampleJob& job, Axes<2>) : of{One(job, 0), One(job, 1)} {}
    PerAxis(const SampleJob& job, Axes<3>) : of{One(job, 0), One(job, 1), One(job, 2)} {}
    PYSTN_HD One& operator[](int a) { return of[a]; }
    PYSTN_HD const One& operator[](int a) const { return of[a]; }
  };

  // The kernels, from a job. A loop that chooses ties does not vectorise.
  struct TiesToEven {
    TiesToEven(const SampleJob&, int) {}
    PYSTN_HD R place(R p, R& t) const { return Nearest<R>{false}.place(p, t); }
    PYSTN_HD void weights(R t, R* w, R* dw, R* d2w) const { Nearest<R>{false}.weights(t, w, dw, d2w); }
  };
  struct ToTheRight : Linear<R> {
    ToTheRight(const SampleJob&, int) {}
  };
  struct Keys : Cubic<R> {
    Keys(const SampleJob& job, int a) : Cubic<R>{R(job.kernel[a].parameter)} {}
  };

  struct Clipped {
    Normalization<R> normalize;
    DroppedTaps bounds;
    Clipped(const SampleJob& job, int a)
        : normalize(Normalization<R>::of(Coordinates(job.coordinates), job.full[a])), bounds{job.full[a]} {}
  };

  template <class Kernels, class Bys, class Position>
  PYSTN_APART void place_all(const SampleJob& job, int count, const R* __restrict x, const R* __restrict y,
                             const R* __restrict z, const Kernels& kernel, const Bys& by, const Position& position) {
    int before[ND], begin[ND], end[ND];
    unsigned stride[ND];
    for (int a = 0; a < ND; ++a) {
      before[a] = int(job.origin[a]) + (S - 1) / 2;
      begin[a] = a == ND - 1 ? low : 0;
      end[a] = a == ND - 1 ? high : int(job.size[a]);
      stride[a] = unsigned(image->axis[a]);
    }
    const int last_first = last;
    alignas(64) int cells[ND][strip_columns];
    const Flag dims = zeros;
    Flag every = 1;
    for (int i = 0; i < count; ++i) {
      R weight[ND][S], slope[ND][S];
      Flag within = 1, beyond = 0;
      unsigned offset = 0;  // any bits where taps are outside
#pragma GCC unroll 3        // or the loop over pixels does not vectorise
      for (int a = 0; a < ND; ++a) {
        R f;
        const R p = position(by[a], a == 0 ? x[i] : a == 1 ? y[i] : z[i], f);
        const int cell = int(weigh_taps<R>(kernel[a], p, weight[a], order ? slope[a] : nullptr, nullptr)) - before[a];
        if (order) factor[a][i] = f;
        offset += unsigned(cell) * stride[a];
        if constexpr (masks) cells[a][i] = cell;
        within &= Flag(cell >= begin[a]) & Flag(cell <= end[a] - S);
        beyond |= Flag(cell <= begin[a] - S) | Flag(cell >= end[a]);
        for (int k = 0; S > 2 && !bytes && k < S; ++k) {  // what is not read may be no number
          within &= Flag(!is_idle(weight[a][k], order ? slope[a][k] : R(0), R(0)));
          if (order) dw[a][k][i] = slope[a][k];
        }
      }
      within &= Flag(int(offset) <= last_first);
      if constexpr (multiplied) {
        for (int k = 0; k < tables; ++k) {
          R all_axes = R(1);
          for (int a = 0, rest = k; a < ND; ++a, rest /= S) all_axes *= weight[a][rest % S];
          product[k][i] = all_axes;
        }
      } else if constexpr (S > 1) {
        for (int a = 0; a < ND; ++a)
          for (int k = 0; k < S; ++k) w[a][k][i] = weight[a][k];
      }
      dark[i] = dims & beyond;
      first[i] = int(offset);
      plain[i] = within;
      every &= within;
    }
    all = every;
    if (every) return;
    if (!drops) {
      for (int i = 0; i < count; ++i) first[i] = plain[i] ? first[i] : 0;
      return;
    }
    if constexpr (masks)
      for (int a = 0; a < ND; ++a) {
        alignas(64) Flag any[strip_columns] = {};
        for (int k = 0; k < S; ++k)
          for (int i = 0; i < count; ++i) {
            Flag in = Flag(cells[a][i] + k >= begin[a]) & Flag(cells[a][i] + k < end[a]);
            if (S > 2) in &= Flag(!is_idle(w[a][k][i], order ? dw[a][k][i] : R(0), R(0)));
            inside[a][k][i] = in;
            any[i] |= in;
          }
        for (int i = 0; i < count; ++i) dark[i] |= !any[i];
      }
  }

  void place_any(const SampleJob& job, int64_t n, const Span& span, int lanes) {
    run.template place<0>(job, n, span, lanes);
    all = true;
    for (int i = 0; i < run.placed; ++i) {
      Flag adjacent = !run.cut[i];
      Index offset = 0;
      for (int a = 0; a < ND; ++a) adjacent &= run.axis[a].adjacent[i];
      for (int a = 0; adjacent && a < ND; ++a) offset += run.axis[a].first[i] * image->axis[a];
      first[i] = int(offset);
      all &= plain[i] = adjacent & Flag(offset <= last);
      dark[i] = false;
      const auto weight = [&](int a, int k) { return run.axis[a].w[run.axis[a].entry(i, k)]; };
      for (int k = 0; multiplied && k < tables; ++k) {
        product[k][i] = R(1);
        for (int a = 0, rest = k; a < ND; ++a, rest /= S) product[k][i] *= weight(a, rest % S);
      }
      for (int a = 0; !multiplied && a < ND; ++a)
        for (int k = 0; k < S; ++k) w[a][k][i] = weight(a, k);
    }
    for (int i = 0; !all && i < run.placed; ++i) first[i] = plain[i] ? first[i] : 0;
  }
};

// The general way, for some pixels of a run: borders, the fill value, the end of the image. E and S as
// there: for Any no number of taps is known, and each channel sums axis by axis.
template <class E, int S, class R, int ND, class T>
PYSTN_APART void sample_others(const SampleJob& job, int64_t n, const Span& span, const Flag* other, Run<R, ND>& run,
                               T* out, Index step, Index channel) {
  using General = Sampler<E, R, S, ND>;
  const typename General::Image image = General::image_of(job.input, n);
  typename General::template FlatTaps<false> products;
  run.template place<0>(job, n, span);
  for (int i = 0; i < span.count; ++i) {
    if (!other[i]) continue;
    const R filled = !job.fill ? R(0) : run.cut[i] ? R(1) : run.outside(job, i, 0).value;
    if (General::flat) products.place(run, i, image.stride);
    for (int64_t c = 0; c < job.channels; ++c) {
      const Index at = c * image.channel;
      R value = R(0);
      if (!run.cut[i])
        value = General::flat ? products.gather(image, at, products.weight)
                              : General::template jet<0>(image, run, i, at).value;
      if (filled != R(0)) value += filled * R(job.fill[c]);
      General::E::template store<R>(out, type_of(job.output.type), i * step + c * channel, value);
    }
  }
}

}  // namespace pystn::PYSTN_LEVEL
