// The taps of nearest and linear kernels, all axes in one loop, and of all kernels that do not fold, for values and
// first derivatives: a shorter way than that of Run, to the same bits. It knows pixels whose taps all are in the image,
// and those that none is; the few others go the way of sampling.hpp.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <type_traits>

#include "sampling.hpp"

namespace pystn::PYSTN_LEVEL {

// Flags of up to 64 pixels as bits, those of the first pixels lowest.
using Bits = uint64_t;
inline Bits bits_of(const Flag* flags, int count) {
  Bits bits = 0;
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16)
    bits |= Bits(_mm512_test_epi32_mask(_mm512_loadu_si512(flags + i), _mm512_set1_epi32(1))) << i;
#endif
#if defined(__AVX2__)
  for (; i + 8 <= count; i += 8) {
    const __m256i eight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(flags + i));
    bits |= Bits(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_slli_epi32(eight, 31)))) << i;
  }
#endif
#if defined(__SSE2__)
  for (; i + 4 <= count; i += 4) {
    const __m128i four = _mm_loadu_si128(reinterpret_cast<const __m128i*>(flags + i));
    bits |= Bits(_mm_movemask_ps(_mm_castsi128_ps(_mm_slli_epi32(four, 31)))) << i;
  }
#endif
  for (; i < count; ++i) bits |= Bits(flags[i] & 1) << i;
  return bits;
}
inline Bits first_bits(int count) { return count < 64 ? (Bits(1) << count) - 1 : ~Bits(0); }
inline int lowest(Bits bits) { return __builtin_ctzll(bits); }

// Calls body(begin, end) for the runs of bits that are set.
template <class Body>
PYSTN_HD void for_each_set_run(Bits bits, Body&& body) {
  while (bits) {
    const int begin = lowest(bits);
    const Bits after = ~bits & ~first_bits(begin);
    const int end = after ? lowest(after) : 64;
    body(begin, end);
    bits &= ~first_bits(end);
  }
}

// What is known of the taps of a strip's pixels: S on each of ND axes, their weights numbers of type R, `multiplied` or
// not. Of up to `rows` rows, pixel i of row r is entry r * width + i. Order 1 has slopes too.
template <class R, int S, int ND, bool multiplied, int rows, int order>
struct StripTaps {
  static constexpr int capacity = rows * strip_columns;
  static constexpr int tables = multiplied ? power(S, ND) : 1, axes = multiplied ? 1 : ND;
  static constexpr bool has_slopes = order > 0;
  static constexpr int sloped = order ? ND : 1, changes = order && S > 2 ? S : 1;  // those of linear are -1 and 1

  alignas(64) int first[capacity];                           // offset of the first tap
  alignas(64) R w[axes][multiplied ? 1 : S][capacity];       // weights on the axes
  alignas(64) R product[tables][multiplied ? capacity : 1];  // of all axes, in their place
  alignas(64) R dw[sloped][changes][capacity];               // slopes of the weights
  alignas(64) R factor[sloped][capacity];                    // d position / d coordinate
  alignas(64) Flag plain[capacity];                          // all that is read is in the image
  alignas(64) Flag dark[capacity];                           // no tap is in the image: 0, or the fill value
  Flag all;                                                  // every pixel is plain
  int width;
  // Where taps outside read 0, and not every pixel is plain: the index of the first tap on each axis, and where those
  // in the image begin and end.
  bool drops;
  alignas(64) int cell[ND][capacity];
  int begin[ND], end[ND];
  int least, most;  // offsets of first taps from which a row of S may be read, whatever is there

  // Whether tap k on an axis is read.
  PYSTN_HD bool reads(int a, int k, int i) const {
    const int at = cell[a][i] + k;
    return at >= begin[a] && at < end[a] && (S <= 2 || !is_idle(w[a][k][i], order ? dw[a][k][i] : R(0), R(0)));
  }

  const R* factor_of(int a) const { return factor[a]; }

  // The pixels of so many entries that are plain, dark, or neither.
  Bits plain_bits(int entry, int count) const { return bits_of(plain + entry, count); }
  Bits dark_bits(int entry, int count) const { return bits_of(dark + entry, count); }
  Bits other_bits(int entry, int count) const {
    return first_bits(count) & ~(plain_bits(entry, count) | dark_bits(entry, count));
  }

  // Those of a run that are neither; returns the span from the first of them to the last.
  Span others(const Span& run, int entry, Flag* other) const {
    return span_of(run, other_bits(entry, run.count), other);
  }
  static Span span_of(const Span& run, Bits bits, Flag* other) {
    const int begin = bits ? lowest(bits) : 0, end = bits ? 64 - __builtin_clzll(bits) : 0;
    for (int i = begin; i < end; ++i) other[i] = Flag(bits >> i & 1);
    return Span{run.outer, run.row, run.column + begin, 1, end - begin};
  }

  static Span row_of(const Span& span, int r) { return Span{span.outer, span.row + r, span.column, 1, span.count}; }
};

// The same, to be placed: in the arithmetic P of positions, in which the axes' weights are made before they are rounded
// to R, and multiplied.
//
// An idle tap, of weight 0, is not read, for it may be no number: its pixel is not plain. But an image of `integers`
// has no such, and values may be made as if there were none, if those that come out as no numbers are made again: where
// taps are `trusting`, pixels with idle taps are plain too, until they are withdrawn.
template <class R, int S, int ND, bool multiplied, int rows = 1, int order = 0, bool integers = false>
struct UsualTaps : StripTaps<R, S, ND, multiplied, rows, order> {
  using Strip = StripTaps<R, S, ND, multiplied, rows, order>;
  using Strip::all;
  using Strip::axes;
  using Strip::begin;
  using Strip::capacity;
  using Strip::cell;
  using Strip::dark;
  using Strip::drops;
  using Strip::dw;
  using Strip::end;
  using Strip::factor;
  using Strip::first;
  using Strip::plain;
  using Strip::product;
  using Strip::row_of;
  using Strip::tables;
  using Strip::w;
  using Strip::width;

  static constexpr bool may_trust = S > 2 && order == 0 && !integers;
  Run<R, ND> run;
  bool one_outside;  // all that is outside has one value
  bool doubtful;     // plain pixels with idle taps are among those placed

  // `last` is the first tap of a pixel whose reading ends with the image.
  explicit UsualTaps(const SampleJob& job, int last = 0x7fffffff, bool trusting = false)
      : doubtful(false), last(last), trusting(may_trust && trusting) {
    constexpr Mode mode = S == 1 ? Mode::nearest : Mode::linear;
    known = Cutoff(job.cutoff) == Cutoff::none &&
            (order == 0 || S != 2 || Subgradient(job.subgradient) == Subgradient::right);
    bool usual = S <= 2;
    one_outside = true;
    are_of(job.input, 0, job.size[ND - 1]);
    for (int a = 0; S == 1 && a < axes; ++a)
      for (int i = 0; i < capacity; ++i) w[a][0][i] = R(1);
    dropping = !job.fill;
    for (int a = 0; a < ND; ++a) {
      const Boundary boundary = Boundary(job.boundary[a]);
      const Mode its = Mode(job.kernel[a].mode);
      usual = usual && its == mode;
      known = known && (S > 2 ? !folds(its) : usual) && (S > 1 || !job.kernel[a].variant) &&
              (S > 2 || job.boundary[a] == job.boundary[0]);
      const bool drops = boundary == Boundary::zeros || boundary == Boundary::constant;
      const bool fills = boundary == Boundary::constant && adds_to_one(its);
      one_outside = one_outside && (job.fill ? fills : drops);
      dropping = dropping && known && (S > 2 ? one_outside : after_fold(boundary) == Boundary::zeros);
    }
  }

  // Taps of another image than the input, in a band of the slowest axis.
  void are_of(const ImageArray& array, int64_t from, int64_t to) {
    image = &array;
    low = int(from);
    high = int(to);
  }

  // For whole blocks of so many pixels in each row: those beyond the span are its last again. Whether all that is not
  // plain is 0 or masked. Of linear that does not depend on the band.
  bool place_all_or_none(const SampleJob& job, int64_t n, const Span& span, int lanes = 1) {
    width = (span.count + lanes - 1) / lanes * lanes;
    drops = dropping;
    if (!known || !place_known(job, n, span)) return false;
    return all || drops || (S == 2 && drop_other_bands(job, span.rows * width));
  }

  // The same, any taps.
  PYSTN_APART void place(const SampleJob& job, int64_t n, const Span& span, int lanes = 1) {
    width = (span.count + lanes - 1) / lanes * lanes;
    drops = dropping;
    doubtful = false;
    if (known && place_known(job, n, span)) return;
    drops = doubtful = false;
    place_any(job, n, span, lanes);
  }

  // Whether `cell` has the first taps of pixels whose position is within an image's size of it, of more than two taps:
  // of fewer, positions that are further away may leave it as it was.
  bool has_cells() const { return S > 2 && known; }

  // Withdraws the plain pixels with idle taps whose values are no numbers; whether there are any.
  template <class IsNone>
  PYSTN_APART bool withdraw(int count, IsNone&& is_none) {
    bool any = false;
    for (int i = 0; i < count; ++i)
      if (plain[i] && idle[i] && is_none(i)) {
        plain[i] = false;
        any = true;
      }
    if (any) set_outside(false, count);
    return any;
  }

 protected:
  const ImageArray* image;
  int last, low, high;
  bool known, dropping, trusting;
  alignas(64) Flag idle[may_trust ? capacity : 1];

  // Returns body(number) in the arithmetic of positions.
  template <class Body>
  static bool by_positions(const SampleJob& job, Body&& body) {
    if constexpr (std::is_same<R, float>::value)
      if (has_wide_positions(job)) return body(double());
    return body(R());
  }

  bool place_known(const SampleJob& job, int64_t n, const Span& span) {
    return by_positions(job, [&](auto p) { return this->template place_known_by<decltype(p)>(job, n, span); });
  }

  template <class P>
  bool place_known_by(const SampleJob& job, int64_t n, const Span& span) {
    alignas(64) P x[ND][capacity];
    const int count = span.rows * width;
    load_strip(job, n, span, width, x);
    Flag within = 1;
    if constexpr (S <= 2) {
      with_fold(Boundary(job.boundary[0]), [&](auto fold) {
        using By = Projection<P, decltype(fold)::template Fold>;
        PerAxis<By> by(job);
        for (int a = 0; a < ND; ++a) by[a].origin = P(0);
        if constexpr (By::Folding::periodic)
          for (int a = 0; a < ND; ++a) within &= all_within(by[a], x[a], count);
        if (!within) return;
        if constexpr (S == 1)
          place_all<P>(job, count, x[0], x[ND > 1 ? 1 : 0], x[ND - 1], PerAxis<TiesToEven<P>>(job), by);
        else
          place_all<P>(job, count, x[0], x[ND > 1 ? 1 : 0], x[ND - 1], PerAxis<ToTheRight<P>>(job), by);
      });
    } else {
      place_weighed<P>(job, count, x);
    }
    return within;
  }

  // A loop of its own, or it does not vectorise.
  template <class By, class P>
  static PYSTN_HD Flag all_within(const By& by, const P* __restrict x, int count) {
    Flag all = 1;
    for (int i = 0; i < count; ++i) all &= Flag(by.fold.within(by.normalize(x[i])));
    return all;
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
  template <class P>
  struct TiesToEven {
    static constexpr bool folds = true;
    TiesToEven(const SampleJob&, int) {}
    PYSTN_HD P place(P p, P& t) const { return Nearest<P>{false}.place(p, t); }
    PYSTN_HD void weights(P t, P* w, P* dw, P* d2w) const { Nearest<P>{false}.weights(t, w, dw, d2w); }
  };
  template <class P>
  struct ToTheRight : Linear<P> {
    ToTheRight(const SampleJob&, int) {}
  };

  // Taps that the boundary moves are not plain: here it is enough that positions are small numbers. Those within an
  // image's size of it stay as they are if it moves them into the image, and what is no number is further away.
  template <class P>
  struct Clipped {
    Normalization<P> normalize;
    P low, high, none;
    Clipped(const SampleJob& job, int a) : normalize(Normalization<P>::of(Coordinates(job.coordinates), job.full[a])) {
      const Boundary boundary = Boundary(job.boundary[a]);
      const bool drops = boundary == Boundary::zeros || boundary == Boundary::constant;
      const Index n = job.full[a], around = drops ? 0 : n;
      low = nearby(-infinity<P>(), n) - P(around);
      high = nearby(infinity<P>(), n) + P(around);
      none = drops ? outside<P>() - P(S) : low;
    }
    PYSTN_HD P operator()(P x) const {
      const P p = normalize(x);
      return between(low, is_finite(p) ? p : none, high);
    }
  };

  // Where first taps are in the image.
  struct Room {
    int before[ND], begin[ND];
    unsigned stride[ND], places[ND];  // of first taps: one before them is a large number

    Room(UsualTaps& taps, const SampleJob& job) {
      Index first = 0, last = 0;
      bool has_rows = taps.image->axis[0] == 1;
      for (int a = 0; a < ND; ++a) {
        before[a] = int(job.origin[a]) + (S - 1) / 2;
        begin[a] = taps.begin[a] = a == ND - 1 ? taps.low : 0;
        const int end = taps.end[a] = a == ND - 1 ? taps.high : int(job.size[a]);
        stride[a] = unsigned(taps.image->axis[a]);
        places[a] = end - begin[a] < S ? 0 : unsigned(end - begin[a] - S + 1);
        has_rows &= taps.image->axis[a] >= 0;
        first += begin[a] * taps.image->axis[a];
        last += (end - 1) * taps.image->axis[a];
      }
      taps.least = int(first);
      taps.most = has_rows ? int(last) - (S - 1) : int(first) - 1;
    }
  };

  // Of positions that are small numbers, for kernels that fold.
  template <class P, class Kernels, class Bys>
  PYSTN_APART void place_all(const SampleJob& job, int count, const P* __restrict x, const P* __restrict y,
                             const P* __restrict z, const Kernels& kernel, const Bys& by) {
    const Room room(*this, job);
    const int last_first = last;
    Flag every = 1;
    for (int i = 0; i < count; ++i) {
      P weight[ND][S];
      Flag within = 1;
      unsigned offset = 0;  // any bits where taps are outside
#pragma GCC unroll 3        // or the loop over pixels does not vectorise
      for (int a = 0; a < ND; ++a) {
        P f, t;
        const P p = by[a].template operator()<false>(a == 0 ? x[i] : a == 1 ? y[i] : z[i], f);
        const int at = int(kernel[a].place(p, t)) - room.before[a];
        kernel[a].weights(t, weight[a], nullptr, nullptr);
        if (order) factor[a][i] = R(f);
        offset += unsigned(at) * room.stride[a];
        cell[a][i] = at;
        within &= Flag(unsigned(at - room.begin[a]) < room.places[a]);
      }
      within &= Flag(int(offset) <= last_first);
      if constexpr (multiplied) {
        for (int k = 0; k < tables; ++k) {
          R all_axes = R(weight[0][k % S]);
          for (int a = 1, rest = k / S; a < ND; ++a, rest /= S) all_axes *= R(weight[a][rest % S]);
          product[k][i] = all_axes;
        }
      } else if constexpr (S > 1) {
        for (int a = 0; a < ND; ++a)
          for (int k = 0; k < S; ++k) w[a][k][i] = R(weight[a][k]);
      }
      first[i] = int(offset);
      plain[i] = within;
      every &= within;
    }
    set_outside(every, count);
  }

  // The same of kernels of more taps, whose weights are made before.
  template <class P>
  PYSTN_APART void place_weighed(const SampleJob& job, int count, const P (&x)[ND][capacity]) {
    const Room room(*this, job);
    const int last_first = last;
    alignas(64) P position[capacity];
    alignas(64) Flag busy[capacity];
    for (int i = 0; i < count; ++i) busy[i] = 1;
    for (int a = 0; a < ND; ++a) {
      const Clipped<P> by(job, a);
      for (int i = 0; i < count; ++i) position[i] = by(x[a][i]);
      for (int i = 0; order && i < count; ++i) factor[a][i] = R(by.normalize.scale);
      if constexpr (std::is_same<P, R>::value) {
        weigh_positions<order>(kernel_of(job, a), count, position, room.before[a], cell[a], w[a][0],
                               order ? dw[a][0] : nullptr, capacity, busy);
      } else {
        alignas(64) P weight[S * capacity], slope[order ? S * capacity : 1];
        weigh_positions<order>(kernel_of(job, a), count, position, room.before[a], cell[a], weight,
                               order ? slope : nullptr, capacity, busy);
        for (int k = 0; k < S; ++k)
          for (int i = 0; i < count; ++i) w[a][k][i] = R(weight[k * capacity + i]);
        for (int k = 0; order && k < S; ++k)
          for (int i = 0; i < count; ++i) dw[a][k][i] = R(slope[k * capacity + i]);
      }
    }
    const Flag trusts = trusting || integers;
    Flag every = 1, doubts = 0;
    for (int i = 0; i < count; ++i) {
      Flag within = busy[i] | trusts;
      unsigned offset = 0;  // any bits where taps are outside
      for (int a = 0; a < ND; ++a) {
        offset += unsigned(cell[a][i]) * room.stride[a];
        within &= Flag(unsigned(cell[a][i] - room.begin[a]) < room.places[a]);
      }
      within &= Flag(int(offset) <= last_first);
      if constexpr (may_trust) {
        idle[i] = !busy[i];
        doubts |= within & Flag(!busy[i]);
      }
      first[i] = int(offset);
      plain[i] = within;
      every &= within;
    }
    doubtful = doubts;
    set_outside(every, count);
  }

  // Taps beyond a band of the image drop, if all are in the image; whether they are.
  PYSTN_APART bool drop_other_bands(const SampleJob& job, int count) {
    Flag within = 1;
    for (int i = 0; i < count; ++i)
      for (int a = 0; a < ND; ++a) within &= Flag(cell[a][i] >= 0) & Flag(cell[a][i] <= int(job.size[a]) - S);
    if (!within) return false;
    for (int i = 0; i < count; ++i) {
      first[i] = 0;
      for (int a = 0; a < ND; ++a) first[i] += cell[a][i] * int(image->axis[a]);
    }
    return drops = true;
  }

  // What is known of pixels that are not plain.
  PYSTN_APART void set_outside(Flag every, int count) {
    all = every;
    if (every) return;
    const Flag dims = one_outside;
    for (int i = 0; i < count; ++i) {
      Flag beyond = 0;
      for (int a = 0; a < ND; ++a) beyond |= Flag(cell[a][i] <= begin[a] - S) | Flag(cell[a][i] >= end[a]);
      dark[i] = dims & beyond;
    }
    if (!drops)
      for (int i = 0; i < count; ++i) first[i] = plain[i] ? first[i] : 0;
  }

  void place_any(const SampleJob& job, int64_t n, const Span& span, int lanes) {
    all = true;
    for_each_piece(span, [&](const Span& piece, int r, int begin) {
      run.template place<0>(job, n, piece, lanes);
      for (int i = 0; i < run.placed; ++i) take(i, r * width + begin + i);
    });
    for (int i = 0; !all && i < span.rows * width; ++i) first[i] = plain[i] ? first[i] : 0;
  }

  // Pixel i of the run as entry e.
  void take(int i, int e) {
    Flag adjacent = !run.cut[i];
    Index offset = 0;
    for (int a = 0; a < ND; ++a) adjacent &= run.axis[a].adjacent[i];
    for (int a = 0; adjacent && a < ND; ++a) offset += run.axis[a].first[i] * image->axis[a];
    first[e] = int(offset);
    all &= plain[e] = adjacent & Flag(offset <= last);
    dark[e] = false;
    const auto weight = [&](int a, int k) { return run.axis[a].w[run.axis[a].entry(i, k)]; };
    for (int k = 0; multiplied && k < tables; ++k) {
      R all_axes = R(1);
      for (int a = 0, rest = k; a < ND; ++a, rest /= S) all_axes *= weight(a, rest % S);
      product[k][e] = all_axes;
    }
    for (int a = 0; !multiplied && a < ND; ++a)
      for (int k = 0; k < S; ++k) w[a][k][e] = weight(a, k);
  }
};

// Asks for what is read two runs after one, with `left` pixels of its row placed, whose first taps are at offsets
// `first` where they are `plain`: every few pixels, others in each row of the output, and for half of them the row
// `below` that of the first tap. To the right of what is placed is what a straight line leads to.
template <class T, class Offset>
PYSTN_HD void prefetch_ahead(const SampleJob& job, const Span& run, int left, const Offset* first, const Flag* plain,
                             const T* image, int64_t channel, int64_t planes, int64_t below) {
#if !defined(__AVX512F__)
  constexpr int apart = 8, columns = strip_columns;
  constexpr int64_t most_planes = 4;
  // Bytes that nearer caches do not hold; a single tap is read from others as fast as it is asked for.
  const int64_t worthwhile = job.kernel[0].taps > 1 ? 1 << 18 : 1 << 21;
  if (run.count < columns || planes > most_planes) return;
  if (job.size[0] * job.size[1] * planes * int64_t(sizeof(T)) < worthwhile) return;
  int64_t ahead = 0;
  if (left >= 3 * columns) {
    first += 2 * columns;
    plain += 2 * columns;
  } else if (plain[0] & plain[columns - 1]) {
    ahead = 2 * (int64_t(first[columns - 1]) - int64_t(first[0]));
  } else {
    return;
  }
  for (int l = int(run.row) % apart; l < columns; l += apart) {
    if (!plain[l]) continue;
    int64_t at = int64_t(first[l]) + ahead + (l & apart ? below : 0);
    for (int64_t c = 0; c < planes; ++c, at += channel) {
      const uintptr_t address = reinterpret_cast<uintptr_t>(image) + uintptr_t(at) * sizeof(T);
      __builtin_prefetch(reinterpret_cast<const char*>(address));
    }
  }
#endif
}
// Of a run whose first pixel is an entry of taps.
template <class T, class Taps>
PYSTN_HD void prefetch_ahead(const SampleJob& job, const Span& run, int left, int entry, const Taps& taps,
                             const T* image, int64_t channel, int64_t planes, int64_t below) {
  prefetch_ahead(job, run, left, taps.first + entry, taps.plain + entry, image, channel, planes, below);
}

// Whether boundaries move all taps into the image; and whether a first tap is so near it that one reflection, or one
// period, moves all of S taps there.
template <int S>
bool moves_taps(const SampleJob& job) {
  bool moves = true;
  for (int a = 0; a < job.ndim; ++a) {
    const Boundary boundary = Boundary(job.boundary[a]);
    moves = moves && boundary != Boundary::zeros && boundary != Boundary::constant;
    moves = moves && job.size[a] == job.full[a] && job.size[a] >= 2 * S;
  }
  return moves;
}
template <int S, class Int>
PYSTN_HD auto is_nearby(Int cell, int n) {
  return (cell > -n) & (cell < 2 * (n - S));
}

// Taps of a run's pixels, up to eight on an axis, wherever they are: of each its offset, and whether it reads anything.
template <class R, int ND>
struct ListedTaps {
  static constexpr int most = 8;
  alignas(64) Index along[ND][most][strip_columns];
  alignas(64) Flag inside[ND][most][strip_columns];

  ListedTaps(const SampleJob& job, const Run<R, ND>& run, int count) {
    for (int a = 0; a < ND; ++a)
      for (int k = 0; k < run.axis[a].taps; ++k) {
        alignas(64) int at[strip_columns];
        run.axis[a].indices(k, count, at);
        for (int i = 0; i < count; ++i) {
          inside[a][k][i] = Flag(at[i] >= 0);
          along[a][k][i] = at[i] < 0 ? 0 : at[i] * job.input.axis[a];
        }
      }
  }

  // The sums over the taps on the first L axes, of pixels at `from` that are `lit`: in the order of sampling.hpp, but
  // tap by tap for all pixels, so that no sum waits for its own last term.
  template <int L, class T>
  PYSTN_APART void add_up(const Run<R, ND>& run, int count, const T* image, const Index* __restrict from,
                          const Flag* __restrict lit, R* __restrict sum) const {
    const AxisTable<R>& table = run.axis[L - 1];
    for (int i = 0; i < count; ++i) sum[i] = R(0);
    for (int k = 0; k < table.taps; ++k) {
      const Index* const step = along[L - 1][k];
      const Flag* const in = inside[L - 1][k];
      const R* const w = table.w + table.entry(0, k);
      if constexpr (L == 1) {
        alignas(64) R tap[strip_columns];
        for (int i = 0; i < count; ++i) {
          Index at = lit[i] & in[i] ? from[i] + step[i] : 0;
          __asm__("" : "+r"(at));  // a vector of these would be gathered, which is slower
          tap[i] = R(number_of(image[at]));
        }
        for (int i = 0; i < count; ++i) sum[i] += (lit[i] & in[i] ? tap[i] : R(0)) * w[i];
      } else {
        alignas(64) Index there[strip_columns];
        alignas(64) Flag both[strip_columns];
        alignas(64) R inner[strip_columns];
        for (int i = 0; i < count; ++i) there[i] = from[i] + step[i], both[i] = lit[i] & in[i];
        add_up<L - 1>(run, count, image, there, both, inner);
        for (int i = 0; i < count; ++i) sum[i] += inner[i] * w[i];
      }
    }
  }
};

// The general way, for some pixels of a run: borders, the fill value, the end of the image. S taps on every axis, T the
// type of the image's and of the output's elements.
template <int S, class R, int ND, class T>
PYSTN_APART void sample_others(const SampleJob& job, int64_t n, const Span& span, const Flag* other, Run<R, ND>& run,
                               T* out, Index step, Index channel) {
  run.template place<0>(job, n, span);
  alignas(64) R filled[strip_columns], value[strip_columns];
  for (int i = 0; i < span.count; ++i)
    filled[i] = !job.fill || !other[i] ? R(0) : run.cut[i] ? R(1) : run.outside(job, i, 0).value;
  const T* const image = static_cast<const T*>(job.input.data) + n * job.input.batch;
  const auto put = [&](int64_t c) {
    for (int i = 0; i < span.count; ++i) {
      if (!other[i]) continue;
      const R more = filled[i] != R(0) ? filled[i] * R(job.fill[c]) : R(0);
      assign(out[i * step + c * channel], filled[i] != R(0) ? value[i] + more : value[i]);
    }
  };
  if constexpr (S <= 2) {
    using General = Sampler<T, R, S, ND>;
    typename General::template FlatTaps<false> products[strip_columns];
    for (int i = 0; i < span.count; ++i)
      if (other[i]) products[i].place(run, i, job.input.axis);
    for (int64_t c = 0; c < job.channels; ++c) {
      const typename General::Image pixels = General::image_of(job.input, n);
      for (int i = 0; i < span.count; ++i)
        value[i] = !other[i] || run.cut[i] ? R(0) : products[i].gather(pixels, c * pixels.channel, products[i].weight);
      put(c);
    }
  } else {
    const ListedTaps<R, ND> taps(job, run, span.count);
    alignas(64) Index from[strip_columns];
    alignas(64) Flag lit[strip_columns];
    for (int i = 0; i < span.count; ++i) lit[i] = other[i] & Flag(!run.cut[i]);
    for (int64_t c = 0; c < job.channels; ++c) {
      for (int i = 0; i < span.count; ++i) from[i] = c * job.input.channel;
      taps.template add_up<ND>(run, span.count, image, from, lit, value);
      put(c);
    }
  }
}

}  // namespace pystn::PYSTN_LEVEL
