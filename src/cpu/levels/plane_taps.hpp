// The taps of eight pixels of planes, one a lane, in registers: positions, and of linear interpolation pairs of
// neighbours and their weights. For planes.hpp and plane_gradients.hpp.
#pragma once

#include "eight_lanes.hpp"

#if defined(PYSTN_EIGHT_LANES)

#include "nearest_taps.hpp"
#include "stream.hpp"

namespace pystn::PYSTN_LEVEL {

// Where the coordinates of a row come from, of type P: stored in pairs,
template <class P>
struct StoredCoordinates {
  const P* at;

  // Processors forget how coordinates are read while pixels are: lines of them are asked for, much later ones.
  PYSTN_HD void load(int i, EightOf<P>& x, EightOf<P>& y) const {
    split_pairs(at + 2 * i, x, y);
    const uintptr_t address = reinterpret_cast<uintptr_t>(at) + uintptr_t(2 * (i + strip_pixels)) * sizeof(P);
    for (size_t line = 0; line < 2 * eight * sizeof(P); line += line_bytes)
      __builtin_prefetch(reinterpret_cast<const char*>(address + line));
  }
  // The first `count` of eight, and 0 in the other lanes.
  PYSTN_HD void load_some(int i, int count, EightOf<P>& x, EightOf<P>& y) const {
    split_some_pairs(at + 2 * i, count, x, y);
  }
};
// or made from a matrix and the target coordinates of the columns, which end in eight zeros.
template <class P>
struct MadeCoordinates {
  using Part = PartOf<P>;
  const P* columns;
  MatrixRow<P> row;

  PYSTN_HD Part target(int i, int p) const { return number_at<Part>(columns + i + p * EightOf<P>::lanes); }
  PYSTN_HD void load(int i, EightOf<P>& x, EightOf<P>& y) const {
    for (int p = 0; p < EightOf<P>::parts; ++p) {
      x.part[p] = row(0, target(i, p));
      y.part[p] = row(1, target(i, p));
    }
  }
  PYSTN_HD void load_some(int i, int, EightOf<P>& x, EightOf<P>& y) const { load(i, x, y); }
};
// The same of a projective one, as Horizon::project.
template <class P>
struct ProjectedCoordinates : MadeCoordinates<P> {
  using Part = PartOf<P>;
  Horizon<P> horizon;

  PYSTN_HD void load(int i, EightOf<P>& x, EightOf<P>& y) const {
    MadeCoordinates<P>::load(i, x, y);
    const Part beyond = spread<Part>(infinity<P>());
    for (int p = 0; p < EightOf<P>::parts; ++p) {
      const Part q = this->row(2, this->target(i, p));
      auto shown = (q >= horizon.least) | (q <= -horizon.least);
      if (horizon.cull_behind) shown &= q > Part{};
      x.part[p] = shown ? x.part[p] / q : beyond;
      y.part[p] = shown ? y.part[p] / q : beyond;
    }
  }
  PYSTN_HD void load_some(int i, int, EightOf<P>& x, EightOf<P>& y) const { load(i, x, y); }
};

// Calls body(r, coordinates) for the rows of a strip of up to so many columns, whose coordinates are made.
template <class P, int most, class Body>
PYSTN_HD void for_each_made_row(const SampleJob& job, int64_t n, const Span& strip, Body&& body) {
  alignas(64) P columns[most + eight];
  target_columns(job, strip.column, strip.count, columns);
  for (int i = 0; i < eight; ++i) columns[strip.count + i] = P(0);
  for (int r = 0; r < strip.rows; ++r) {
    const LatticeSpan<P> lattice(job, n, Span{strip.outer, strip.row + r, strip.column, 1, strip.count});
    const MadeCoordinates<P> made{columns, lattice.under(job, job.source.theta)};
    if (is_projective(job))
      body(r, ProjectedCoordinates<P>{made, horizon_of<P>(job)});
    else
      body(r, made);
  }
}

// Mirror, Symmetric or Wrap, of which positions seldom need one. Not for derivatives, which end at borders.
template <class R>
struct AnyFold {
  static constexpr bool takes_any = false, periodic = true;
  Mirror<R> mirror;
  Symmetric<R> symmetric;
  Wrap<R> wrap;
  Boundary boundary = Boundary::mirror;

  AnyFold(Index n, R tolerance) : mirror(n, tolerance), symmetric(n, tolerance), wrap(n, tolerance) {}

  // Of eight positions, or four of float64.
  template <class X>
  PYSTN_HD X operator()(X p, X& factor) const {
    const X last = spread<X>(mirror.clip.last);
    factor = spread<X>(R(1));
    return all_hold((p > X{}) & (p < last)) ? p : fold(*this, p, factor);
  }

 private:
  template <class Mask>
  static PYSTN_HD bool all_hold(Mask holds) {
    return signs_of(EightInts(holds)) == 255;
  }
  template <class X>
  static PYSTN_APART X fold(const AnyFold& folds, X p, X& factor) {
    switch (folds.boundary) {
      case Boundary::symmetric:
        return by(folds.symmetric, p, factor);
      case Boundary::wrap:
        return by(folds.wrap, p, factor);
      default:
        return by(folds.mirror, p, factor);
    }
  }
  template <class One, class X>
  static PYSTN_HD X by(const One& one, X p, X& factor) {
    if (all_hold(one.within(p))) return one.template operator()<false>(p, factor);
    for (int l = 0; l < int(sizeof(X) / sizeof(R)); ++l) {
      R f;
      p[l] = one(R(p[l]), f);
      factor[l] = f;
    }
    return p;
  }
};

// Images that positions of type P lie in.
template <class P, template <class> class Fold>
struct Plane {
  using By = Projection<P, Fold>;
  static constexpr bool folds = By::Folding::periodic;
  By by_x, by_y;
  int width, height, origin_x, origin_y;
  int column, row;  // strides
  bool wraps = false;

  explicit Plane(const SampleJob& job)
      : by_x(job, 0),
        by_y(job, 1),
        width(int(job.size[0])),
        height(int(job.size[1])),
        origin_x(int(job.origin[0])),
        origin_y(int(job.origin[1])),
        column(int(job.input.axis[0])),
        row(int(job.input.axis[1])) {
    if constexpr (folds) {
      by_x.fold.boundary = by_y.fold.boundary = Boundary(job.boundary[0]);
      wraps = Boundary(job.boundary[0]) == Boundary::wrap;
    }
  }

  // Pixels on an axis, of which the one after the last is the first if they wrap.
  PYSTN_HD EightInts around(EightInts at, int size) const {
    return folds && wraps ? (at == size ? EightInts{} : at) : at;
  }

  // On the whole axis, with d position / d coordinate; outside where the coordinate is no number.
  static PYSTN_HD EightOf<P> position(const By& by, const EightOf<P>& x, EightOf<P>& factor) {
    EightOf<P> position;
    for (int p = 0; p < EightOf<P>::parts; ++p) position.part[p] = position_of(by, x.part[p], factor.part[p]);
    return position;
  }
  // Of those that become integers alone: with taps that read 0 outside, what is far away or no number is so as these.
  static PYSTN_HD EightOf<P> position(const By& by, const EightOf<P>& x) {
    EightOf<P> position, factor;
    if constexpr (!By::Folding::takes_any) return Plane::position(by, x, factor);
    for (int p = 0; p < EightOf<P>::parts; ++p) position.part[p] = by.normalize(x.part[p]);
    return position;
  }

 private:
  template <class Part>
  static PYSTN_HD Part position_of(const By& by, Part x, Part& factor) {
    const Part p = by.fold(by.normalize(x), factor);
    factor *= by.normalize.scale;
    if constexpr (By::Folding::takes_any) return p;
    const auto reads = x - x == Part{};
    factor = reads ? factor : Part{};
    return reads ? p : spread<Part>(outside<P>());
  }
};

// How far pixels are from the first of two taps on an axis, and what the weights are therefore. Those of positions in
// float64 are rounded last, so both are kept.
template <class P>
struct Phase {
  Eight t;

  PYSTN_HD void set(const EightOf<float>& phase) { t = phase.part[0]; }
  PYSTN_HD Eight weight(int k) const { return k ? t : 1.0f - t; }
  PYSTN_HD void copy_to(Phase& to) const { to.t = t; }
};
template <>
struct Phase<double> {
  Eight w[2];

  PYSTN_HD void set(const EightOf<double>& phase) {
    w[0] = floats({{1.0 - phase.part[0], 1.0 - phase.part[1]}});
    w[1] = floats(phase);
  }
  PYSTN_HD Eight weight(int k) const { return w[k]; }
  // As an assignment, which compilers make of pieces of the vectors, and wait for these.
  PYSTN_HD void copy_to(Phase& to) const {
    for (int k = 0; k < 2; ++k) to.w[k] = w[k];
  }
};

// The weights of the taps on both axes.
struct LinearWeights {
  Eight x[2], y[2];

  template <class P>
  PYSTN_HD LinearWeights(const Phase<P>& phase_x, const Phase<P>& phase_y)
      : x{phase_x.weight(0), phase_x.weight(1)}, y{phase_y.weight(0), phase_y.weight(1)} {}
};

// Of integers that may be any numbers.
PYSTN_HD EightInts from_origin(EightInts at, int origin) { return EightInts(EightBits(at) - unsigned(origin)); }
template <class Plane>
PYSTN_HD EightInts offset_of(const Plane& plane, EightInts at_x, EightInts at_y, int step) {
  return EightInts(EightBits(at_y) * unsigned(plane.row) + EightBits(at_x) * unsigned(step));
}
// Whether they are on an axis of so many pixels if they go on by k.
PYSTN_HD EightInts within(EightInts at, int k, int size) { return (at >= -k) & (at < size - k); }
// Those, brought to where they go on to pixels up to `last`.
PYSTN_HD EightInts clipped(EightInts at, int k, int last) {
  const __m256i low = _mm256_set1_epi32(-k), high = _mm256_set1_epi32(last - k);
  return EightInts(_mm256_min_epi32(_mm256_max_epi32(__m256i(at), low), high)) + k;
}

// The cells of linear interpolation that pixels lie in, and where in these.
template <class P>
struct LinearCells {
  EightInts at_x, at_y;
  Phase<P> x, y;

  template <class Plane>
  PYSTN_HD LinearCells(const Plane& plane, const EightOf<P>& p_x, const EightOf<P>& p_y) {
    at_x = from_origin(place(p_x, x), plane.origin_x);
    at_y = from_origin(place(p_y, y), plane.origin_y);
  }
  // The offset of the first tap, `step` from the next; any number if it is outside.
  template <class Plane>
  PYSTN_HD EightInts first(const Plane& plane, int step = 1) const {
    return offset_of(plane, at_x, at_y, step);
  }
  // Whether taps of any are outside.
  template <class Plane>
  PYSTN_HD bool odd(const Plane& plane) const {
    return signs_of((at_x > plane.width - 2) | (at_y > plane.height - 2) | at_x | at_y) != 0;
  }
  // Whether all of all are.
  template <class Plane>
  PYSTN_HD bool none(const Plane& plane) const {
    return signs_of((at_x > plane.width - 1) | (at_y > plane.height - 1) | (at_x < -1) | (at_y < -1)) == 255;
  }

 private:
  static PYSTN_HD EightInts place(const EightOf<P>& position, Phase<P>& phase) {
    EightOf<P> cell, t;
    for (int p = 0; p < EightOf<P>::parts; ++p) {
      cell.part[p] = floor_of(position.part[p]);
      t.part[p] = position.part[p] - cell.part[p];
    }
    phase.set(t);
    return integers(cell);
  }
};

PYSTN_HD void number_to(int* to, EightInts x) { __builtin_memcpy(to, &x, sizeof x); }

// Which taps of such pixels are in the image: also behind its end, if it wraps.
struct OddCells {
  EightInts in_x[2], in_y[2];

  OddCells() = default;
  template <class Plane>
  PYSTN_HD OddCells(const Plane& plane, EightInts at_x, EightInts at_y) {
    for (int k = 0; k < 2; ++k) {
      in_x[k] = within(at_x, k, plane.width);
      in_y[k] = within(at_y, k, plane.height);
    }
    if (!Plane::folds || !plane.wraps) return;
    in_x[1] |= at_x == plane.width - 1;
    in_y[1] |= at_y == plane.height - 1;
  }
  PYSTN_HD EightInts inside(int k) const { return in_x[k % 2] & in_y[k / 2]; }
  // Which read anything.
  PYSTN_HD EightInts reading() const { return (in_x[0] | in_x[1]) & (in_y[0] | in_y[1]); }
};

// And pairs of which a tap is in the image, or some others, and the taps in these.
struct OddPairs : OddCells {
  EightInts other;  // pairs whose first is tap 1 or whose second is tap 0
  alignas(32) int first[2][eight];
  int ends = 0;  // bits of those whose tap 1 is the first of its row, as they wrap
  alignas(32) int begin[2][eight];

  OddPairs() = default;
  template <class Plane>
  PYSTN_HD OddPairs(const Plane& plane, EightInts at_x, EightInts at_y) : OddCells(plane, at_x, at_y) {
    const EightInts pair = clipped(at_x, 0, plane.width - 2);
    other = pair != at_x;
    if (Plane::folds && plane.wraps) ends = signs_of(at_x == plane.width - 1);
    for (int j = 0; j < 2; ++j) {
      const EightInts line = plane.around(clipped(at_y, j, plane.height - !plane.wraps), plane.height) * plane.row;
      number_to(first[j], line + pair);
      if (ends) number_to(begin[j], line);
    }
  }
  // The taps of row j; those outside are 0.
  template <class T>
  PYSTN_HD void read(const T* from, int j, Eight (&tap)[2]) const {
    Eight pair[2];
    read_pairs(from, first[j], pair);
    for (int k = 0; k < 2; ++k) tap[k] = Eight(EightInts(other ? pair[1 - k] : pair[k]) & in_x[k] & in_y[j]);
    for (int left = ends; left; left &= left - 1) {
      const int l = lowest(left);
      if (in_y[j][l]) tap[1][l] = number_of(from[begin[j][l]]);
    }
  }
  // Puts what taps of row j receive where they are in the pair; what is outside is 0.
  PYSTN_HD void put(int j, Eight (&term)[2]) const {
    Eight tap[2];
    for (int k = 0; k < 2; ++k) tap[k] = Eight(EightInts(term[k]) & in_x[k] & in_y[j]);
    for (int k = 0; k < 2; ++k) term[k] = other ? tap[1 - k] : tap[k];
  }
};

// The share of the weights that is on taps outside, as core's share_outside has it; of pixels that read nothing, all.
template <class Taps>
PYSTN_HD Eight share_outside(const Taps& taps, const LinearWeights& weights) {
  const auto inside = [](const Eight(&w)[2], const EightInts(&in)[2]) __attribute__((always_inline)) {
    return Eight(EightInts(w[0]) & in[0]) + Eight(EightInts(w[1]) & in[1]);
  };
  const Eight all = (weights.x[0] + weights.x[1]) * (weights.y[0] + weights.y[1]);
  const Eight share = all - inside(weights.x, taps.in_x) * inside(weights.y, taps.in_y);
  return taps.reading() ? share : spread<Eight>(1.0f);
}

// Of the taps of both rows.
struct PairWeights {
  Eight of[4];

  explicit PYSTN_HD PairWeights(const LinearWeights& weights) {
    for (int j = 0; j < 2; ++j)
      for (int k = 0; k < 2; ++k) of[2 * j + k] = weights.x[k] * weights.y[j];
  }
  // Those of taps that are inside, else 0.
  template <class Taps>
  PYSTN_HD PairWeights(const PairWeights& all, const Taps& taps) {
    for (int k = 0; k < 4; ++k) of[k] = Eight(EightInts(all.of[k]) & taps.inside(k));
  }
  PYSTN_HD Eight sum(const Eight (&tap)[2][2]) const {
    Eight sum = of[0] * tap[0][0];
    sum += of[1] * tap[0][1];
    sum += of[2] * tap[1][0];
    return sum + of[3] * tap[1][1];
  }
};

// Whether few channels are sampled so: images of one tap or two. Of boundaries that fold, only if they are known.
inline bool fits_eight_lanes(const SampleJob& job, bool folds) {
  if (!job.single || job.ndim != 2 || job.components != 1) return false;
  if (job.mask.data || job.projected || job.chosen.data || job.output_batch != job.batch) return false;
  if (Cutoff(job.cutoff) != Cutoff::none || job.channels > streamed) return false;
  if (is_stored(job) && !has_pairs_of(job, job.grid_type)) return false;
  if (job.boundary[0] != job.boundary[1]) return false;
  const Mode mode = Mode(job.kernel[0].mode);
  const Boundary boundary = Boundary(job.boundary[0]);
  if (mode != Mode::nearest && mode != Mode::linear) return false;
  if (mode != Mode(job.kernel[1].mode) || job.kernel[0].variant || job.kernel[1].variant) return false;
  if (boundary != Boundary::zeros && boundary != Boundary::border && boundary != Boundary::constant && !folds)
    return false;
  for (int a = 0; a < 2; ++a)
    if (boundary == Boundary::wrap && job.size[a] != job.full[a]) return false;
  int64_t reach = 0;
  for (int a = 0; a < 2; ++a) {
    const int64_t stride = job.input.axis[a] < 0 ? -job.input.axis[a] : job.input.axis[a];
    if (!Whole<float>::holds(job.full[a])) return false;
    reach += (job.full[a] + 2) * stride;  // first taps are at most two pixels outside
  }
  return reach < int64_t(1) << 31;
}
// Whether they are of planes, their samples next to each other in rows.
inline bool fits_planes(const SampleJob& job, bool folds) {
  return column_stride(job, job.output.axis) == 1 && fits_eight_lanes(job, folds);
}
// Whether linear pixels read pairs of neighbours.
inline bool fits_pairs(const SampleJob& job) {
  return Mode(job.kernel[0].mode) == Mode::linear && job.input.axis[0] == 1 && job.size[0] > 1;
}

}  // namespace pystn::PYSTN_LEVEL
#endif
