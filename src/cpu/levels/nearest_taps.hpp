// Where the nearest pixels of a strip are. Copying them takes less than UsualTaps know, and this loop is half as long.
#pragma once

#include "usual_taps.hpp"

namespace pystn::PYSTN_LEVEL {

// Whole numbers next to positions, ties to the even ones, counted from `zero`.
template <class P>
struct Whole {
  static constexpr unsigned zero = 0;
  static constexpr bool holds(int64_t n) { return is_narrow(n); }
  static PYSTN_HD unsigned nearest(P p) { return unsigned(int(round_of(p))); }
};
// float32 has no digits behind the point from 2^23 on: the sum is rounded, and its bits count whole numbers.
template <>
struct Whole<float> {
  static constexpr float origin = 12582912.0f;  // 3/2 2^23
  static constexpr unsigned zero = 0x4b400000;
  static constexpr bool holds(int64_t n) { return n < int64_t(1) << 22; }
  static PYSTN_HD unsigned nearest(float p) {
    const float sum = p + origin;
    unsigned bits;
    __builtin_memcpy(&bits, &sum, sizeof bits);
    return bits;
  }
};

// Of UsualTaps these set `first`, which is in the image for every pixel, `plain` and `all`; and `dark` to nothing.
template <class R, int ND>
struct NearestTaps : UsualTaps<R, 1, ND, false, strip_rows> {
  using Taps = UsualTaps<R, 1, ND, false, strip_rows>;
  using Taps::all;
  using Taps::first;
  using Taps::plain;
  using Taps::width;

  explicit NearestTaps(const SampleJob& job) : Taps(job) {
    for (int i = 0; i < Taps::capacity; ++i) Taps::dark[i] = false;
  }

  void place(const SampleJob& job, int64_t n, const Span& span) {
    width = span.count;
    all = true;
    const auto place_by = [&](auto p) { return this->template place_known_by<decltype(p)>(job, n, span); };
    if (!Taps::known || !Taps::by_positions(job, place_by)) Taps::place_any(job, n, span, 1);
  }

 private:
  template <class P>
  bool place_known_by(const SampleJob& job, int64_t n, const Span& span) {
    for (int a = 0; a < ND; ++a)
      if (!Whole<P>::holds(job.full[a])) return false;
    bool placed = false;
    with_fold(Boundary(job.boundary[0]),
              [&](auto fold) { placed = place_folded<P, Projection<P, decltype(fold)::template Fold>>(job, n, span); });
    return placed;
  }

  // Coordinates that are stored in pairs are read where they are.
  template <class P, class By>
  bool place_folded(const SampleJob& job, int64_t n, const Span& span) {
    constexpr Element type = std::is_same<P, double>::value ? Element::f64 : Element::f32;
    const typename Taps::template PerAxis<By> by(job);
    const typename Taps::Room room(*this, job);
    if (!By::Folding::periodic && has_pairs_of(job, type)) {
      const P* x = static_cast<const P*>(job.grid.data) + n * job.grid.batch + offset_of(job, job.grid.axis, span);
      const Index row = row_stride(job, job.grid.axis);
      prefetch_next(x, span.rows, row, 2 * width);
      for (int r = 0; r < span.rows; ++r, x += row)
        all &= place_row<2, P>(by, room, x, x + 1, x, width, first + r * width, plain + r * width);
      return true;
    }
    alignas(64) P x[ND][Taps::capacity];
    const int count = span.rows * width;
    load_strip(job, n, span, width, x);
    if constexpr (By::Folding::periodic)
      for (int a = 0; a < ND; ++a)
        if (!Taps::all_within(by[a], x[a], count)) return false;
    all = place_row<1, P>(by, room, x[0], x[ND > 1 ? 1 : 0], x[ND - 1], count, first, plain);
    return true;
  }

  // On the whole axis; outside if the coordinate is no number.
  template <class P, class By>
  static PYSTN_HD P position_of(const By& by, P x) {
    const bool reads = By::Folding::takes_any || is_finite(x);
    P factor;
    const P p = by.template folded<false>(by.normalize(x), factor);
    return reads ? p : outside<P>();
  }

  template <int apart, class P, class Bys>
  static PYSTN_APART Flag place_row(const Bys& by, const typename Taps::Room& room, const P* __restrict x,
                                    const P* __restrict y, const P* __restrict z, int count, int* __restrict to,
                                    Flag* __restrict plain) {
    unsigned low[ND], before = 0;
    for (int a = 0; a < ND; ++a) {
      low[a] = Whole<P>::zero + unsigned(room.before[a] + room.begin[a]);
      before += (Whole<P>::zero + unsigned(room.before[a])) * room.stride[a];
    }
    Flag every = 1;
#pragma GCC ivdep
    for (int i = 0; i < count; ++i) {
      Flag within = 1;
      unsigned offset = 0u - before;  // any bits where the pixel is outside
#pragma GCC unroll 3
      for (int a = 0; a < ND; ++a) {
        const unsigned at = Whole<P>::nearest(position_of(by[a], (a == 0 ? x : a == 1 ? y : z)[i * apart]));
        within &= Flag(at - low[a] < room.places[a]);
        offset += at * room.stride[a];
      }
      to[i] = within ? int(offset) : 0;
      plain[i] = within;
      every &= within;
    }
    return every;
  }
};

}  // namespace pystn::PYSTN_LEVEL
