// Samples whose kernel is stretched over a footprint (core/footprints.hpp): one pixel of the output at a time. Its taps
// are walked in rows along x, of at most `row_taps` whose pixels follow each other, and the channels inside. Each
// direction is written once for scales and covariances, and once for any arithmetic: with tangents the value is the
// JVP, and the gradients are those of second order.
#pragma once

#include <type_traits>

#include "elements.hpp"
#include "footprints.hpp"
#include "parts.hpp"
#include "reach.hpp"
#include "run.hpp"

namespace pystn::PYSTN_LEVEL {

constexpr int row_taps = 128;
constexpr int channels_at_once = 64;

// Taps in a row, whose pixels lie next to each other along x. Weights are those of the sample but for a factor that
// all of them have.
template <class X>
struct TapRow {
  Index pixel[3];
  int count;
  const X* weight;
  bool inside;      // of the image as it is, not by way of a boundary; ellipses alone say so
  int begin, y, z;  // scales: entries on each axis
  Index from;       // ellipses: the first tap along x, and the distances along the others
  X dy, dz;
};

// ---- What is at a sample

template <class X>
struct FootprintPoint {
  using R = RealOf<X>;
  using Precise = std::conditional_t<Arithmetic<X>::dual, Dual<double>, double>;
  X p[3];
  R factor[3];  // d position / d coordinate
  Precise footprint[3][3];
  bool cut;  // replaced whole by the fill value

  static double element(const SampleJob& job, const void* data, int64_t at) {
    return job.grid_type == Element::f32 ? double(static_cast<const float*>(data)[at])
                                         : static_cast<const double*>(data)[at];
  }
  static Index place(const SampleJob& job, const FootprintArray& array, int64_t n, const Span& span, int i) {
    return n * array.batch + offset_of(job, array.axis, span) + i * column_stride(job, array.axis);
  }

  void load(const SampleJob& job, int64_t n, const Span& span, int i) {
    const FootprintJob& feet = *job.footprint;
    cut = false;
    for (int a = 0; a < 3; ++a) {
      p[a] = X(R(0));
      factor[a] = R(0);
    }
    for (int a = 0; a < job.ndim; ++a) {
      const auto convention = Coordinates(job.coordinates);
      const R bound = Limits<R>::quarter_of_largest, x = R(grid_element(job, job.grid, n, span, i, a));
      const auto normalize = Normalization<R>::of(convention, job.full[a]);
      cut = cut || !is_finite(x);
      if (!cut && Cutoff(job.cutoff) != Cutoff::none)
        cut = CutoffLine<R>(Cutoff(job.cutoff), convention, job.full[a]).leaves_out(x);
      factor[a] = normalize.scale;
      const R step = Arithmetic<X>::dual && job.d_grid.data ? R(grid_element(job, job.d_grid, n, span, i, a)) : R(0);
      p[a] = along(with_tangent<X>(R(0), step), between(-bound, normalize(x), bound), factor[a]);
    }
    const int columns = feet.covariances ? job.ndim : 1;
    const Index at = place(job, feet.footprint, n, span, i);
    const Index d_at = feet.d_footprint.data ? place(job, feet.d_footprint, n, span, i) : 0;
    for (int a = 0; a < job.ndim; ++a)
      for (int b = 0; b < columns; ++b) {
        const double value = element(job, feet.footprint.data, at + a * feet.footprint.row + b * feet.footprint.column);
        cut = cut || !is_finite(value);
        double step = 0;
        if (Arithmetic<X>::dual && feet.d_footprint.data)
          step = element(job, feet.d_footprint.data, d_at + a * feet.d_footprint.row + b * feet.d_footprint.column);
        footprint[a][b] = with_tangent<Precise>(value, step);
      }
    for (int a = 0; columns > 1 && a < job.ndim; ++a)
      for (int b = 0; b < a; ++b) footprint[a][b] = footprint[b][a] = (footprint[a][b] + footprint[b][a]) * 0.5;
  }

  template <class Y>
  static Y with_tangent(RealOf<Y> value, [[maybe_unused]] RealOf<Y> tangent) {
    if constexpr (Arithmetic<Y>::dual)
      return Y(value, tangent);
    else
      return value;
  }
};

// ---- Scales

// The taps of one axis in blocks of `row_taps`, in most cases one: those that read a pixel and are not idle.
template <class X, bool slopes>
struct StretchedTaps {
  using R = RealOf<X>;
  StretchedAxis<X> axis;
  Boundary boundary;
  Index n, low, high;        // pixels that are read: of the axis, and those of a band
  Index cell, from, to, at;  // `cell` where taps are mapped from, and `near` where they are
  Index near;
  Stretched<X> sum, inside;
  bool single, filled;
  int entries, runs;
  X w[row_taps], by_p[row_taps], by_s[row_taps];
  Index pixel[row_taps];
  int begin[row_taps + 1];  // of the runs of pixels that follow each other

  // An axis that the image does not have.
  void set_missing() {
    const X one(R(1)), zero(R(0));
    inside = {one, zero, zero};
    single = filled = true;
    entries = runs = 1;
    w[0] = one;
    by_p[0] = by_s[0] = zero;
    pixel[0] = 0;
    begin[0] = 0;
    begin[1] = 1;
    axis.moves = false;
  }

  void place(const SampleJob& job, int a, X p, X scale) {
    n = job.size[a];
    boundary = Boundary(job.boundary[a]);
    axis.place(kernel_of(job, a), Subgradient(job.subgradient), slopes, p, scale, n);
    cell = reduced_cell(boundary, axis.cell, axis.first, axis.last, n);
    near = reduced_cell(Boundary::zeros, axis.cell, axis.first, axis.last, n);
  }

  PYSTN_APART void set(const SampleJob& job, int a, X p, X scale, Index lowest, Index beyond) {
    const X zero(R(0));
    place(job, a, p, scale);
    low = lowest;
    high = beyond;
    sum = inside = {zero, zero, zero};
    const Index first = axis.first, last = axis.last;
    single = last - first < row_taps;
    for (Index j = first; j <= last; j += row_taps) {
      const int count = weigh(j, last);
      const Index here = near + j;
      add_to(sum, 0, count);
      if (here < n && here + count > 0)
        add_to(inside, here < 0 ? int(-here) : 0, here + count > n ? int(n - here) : count);
    }
    inside = is_whole() ? Stretched<X>{X(R(1)), zero, zero} : axis.weight(inside, sum);
    from = first;
    to = last;
    if (boundary == Boundary::zeros || boundary == Boundary::constant) {  // nothing is read outside
      from = from > -cell ? from : -cell;
      to = to < n - 1 - cell ? to : n - 1 - cell;
    }
    filled = false;
    if (!single) return;
    if (from <= to)
      fill(first, from, int(to - from + 1));
    else
      entries = runs = 0;
    filled = true;
  }

  // Whether all taps are in the image.
  bool is_whole() const { return near + axis.first >= 0 && near + axis.last < n; }

  // Taps from j on, before they are divided by their sum; how many.
  int weigh(Index j, Index last) {
    const int count = int(last - j < row_taps ? last - j + 1 : row_taps);
    axis.with_kernel([&](const auto& kernel) {
      for (int i = 0; i < count; ++i) {
        const Stretched<X> tap = axis.tap(kernel, j + i);
        w[i] = tap.value;
        if (slopes) {
          by_p[i] = tap.by_p;
          by_s[i] = tap.by_s;
        }
      }
    });
    return count;
  }

  void add_to(Stretched<X>& total, int start, int end) const {
    for (int i = start; i < end; ++i) {
      total.value += w[i];
      if (slopes) {
        total.by_p += by_p[i];
        total.by_s += by_s[i];
      }
    }
  }

  // Entries of so many taps from j on, which are weighed from `first` on.
  void fill(Index first, Index j, int count) {
    const int skipped = int(j - first);
    entries = runs = 0;
    const bool within = near + j >= 0 && near + j + count <= n;
    for (int i = 0; i < count; ++i) {
      const Index to = within ? near + j + i : mapped(boundary, cell + j + i, n);
      if (to == outside_image || to < low || to >= high) continue;
      const X zero(R(0));
      const int k = i + skipped;
      const Stretched<X> one = axis.weight({w[k], slopes ? by_p[k] : zero, slopes ? by_s[k] : zero},
                                           slopes ? sum : Stretched<X>{sum.value, zero, zero});
      if (is_zero(one.value) && (!slopes || (is_zero(one.by_p) && is_zero(one.by_s)))) continue;
      const bool again = entries > 0 && pixel[entries - 1] == to;
      if (!again) {
        if (entries == 0 || pixel[entries - 1] + 1 != to) begin[runs++] = entries;
        pixel[entries] = to;
        w[entries] = by_p[entries] = by_s[entries] = zero;
      }
      const int e = again ? entries - 1 : entries++;
      w[e] += one.value;
      if (slopes) {
        by_p[e] += one.by_p;
        by_s[e] += one.by_s;
      }
    }
    begin[runs] = entries;
  }

  void restart() { at = from; }
  // The next block of entries; false if there is none.
  bool next() {
    if (single) {
      const bool first = at == from;
      at = from + 1;
      return first;
    }
    if (at > to) return false;
    const int count = weigh(at, to);
    fill(at, at, count);
    at += count;
    return true;
  }
};

template <class X, bool slopes>
struct ScaleTaps {
  using R = RealOf<X>;
  StretchedTaps<X, slopes> axis[3];
  X weights[row_taps];
  X by_p[3], by_s[3];  // sums for the gradient

  bool set(const SampleJob& job, const FootprintPoint<X>& point, Index low, Index high) {
    for (int a = 0; a < 3; ++a) {
      if (a < job.ndim)
        axis[a].set(job, a, point.p[a], X(point.footprint[a][0]), a == job.ndim - 1 ? low : 0,
                    a == job.ndim - 1 ? high : job.size[a]);
      else
        axis[a].set_missing();
      by_p[a] = by_s[a] = X(R(0));
    }
    return true;
  }

  // Calls body(row) for all taps in the image; `counts` means nothing here.
  template <class Body>
  void rows(const SampleJob& /*job*/, bool /*counts*/, Body&& body) {
    auto& [x, y, z] = axis;
    for (z.restart(); z.next();)
      for (y.restart(); y.next();)
        for (x.restart(); x.next();)
          for (int k = 0; k < z.entries; ++k)
            for (int j = 0; j < y.entries; ++j) {
              const X others = z.w[k] * y.w[j];
              for (int r = 0; r < x.runs; ++r) {
                const int begin = x.begin[r], count = x.begin[r + 1] - begin;
                for (int i = 0; i < count; ++i) weights[i] = others * x.w[begin + i];
                body(TapRow<X>{{x.pixel[begin], y.pixel[j], z.pixel[k]}, count, weights, true, begin, j, k, 0, {}, {}});
              }
            }
  }

  X normalizer() const { return X(R(1)); }

  void fills(const SampleJob& job, Stretched<X>* inside, bool* fill) const {
    for (int a = 0; a < 3; ++a) {
      const Boundary boundary = a < job.ndim ? Boundary(job.boundary[a]) : Boundary::border;
      fill[a] = boundary == Boundary::constant;
      inside[a] = fill[a] || boundary == Boundary::zeros ? axis[a].inside : Stretched<X>{X(R(1)), X(R(0)), X(R(0))};
    }
  }
  bool is_whole(const SampleJob& job) const {
    for (int a = 0; a < job.ndim; ++a)
      if (!axis[a].is_whole()) return false;
    return true;
  }
  X filled(const SampleJob& job) const {
    Stretched<X> inside[3];
    bool fill[3];
    fills(job, inside, fill);
    return is_whole(job) ? X(R(0)) : stretched_outside(inside, fill).value;
  }
  StretchedProduct<X> covered() const {
    const Stretched<X> inside[3] = {axis[0].inside, axis[1].inside, axis[2].inside};
    return StretchedProduct<X>(inside);
  }
  X cover() const { return covered().value; }

  // Adds the taps of a row, weighed by h, to the sums.
  void add(const TapRow<X>& row, const X* h) {
    const auto& [x, y, z] = axis;
    const X zero(R(0));
    X all = zero, along_p = zero, along_s = zero;
    for (int i = 0; i < row.count; ++i) {
      const int e = row.begin + i;
      all += h[i] * x.w[e];
      along_p += h[i] * x.by_p[e];
      along_s += h[i] * x.by_s[e];
    }
    const X others = y.w[row.y] * z.w[row.z], of_xz = all * z.w[row.z], of_xy = all * y.w[row.y];
    by_p[0] += along_p * others;
    by_s[0] += along_s * others;
    by_p[1] += of_xz * y.by_p[row.y];
    by_s[1] += of_xz * y.by_s[row.y];
    by_p[2] += of_xy * z.by_p[row.z];
    by_s[2] += of_xy * z.by_s[row.z];
  }

  // What the fill value and the mask add to the sums, from their cotangents.
  void add_rest(const SampleJob& job, R fill_cotangent, R mask_cotangent) {
    if (is_whole(job)) return;
    if (fill_cotangent != R(0)) {
      Stretched<X> inside[3];
      bool fill[3];
      fills(job, inside, fill);
      add(stretched_outside(inside, fill), fill_cotangent);
    }
    if (mask_cotangent == R(0)) return;
    const StretchedProduct<X> cover = covered();
    if (value_of(cover.value) >= R(0) && value_of(cover.value) <= R(1)) add(cover, mask_cotangent);
  }
  void add(const StretchedProduct<X>& share, R cotangent) {
    for (int a = 0; a < 3; ++a) {
      by_p[a] += share.by_p[a] * cotangent;
      by_s[a] += share.by_s[a] * cotangent;
    }
  }
  static constexpr bool mask_in_rows = false;
  void expect(R /*fill_cotangent*/, R /*mask_cotangent*/) {}

  void gradient(X* to_p, X (*to_footprint)[3]) const {
    for (int a = 0; a < 3; ++a) {
      to_p[a] = by_p[a];
      to_footprint[a][0] = axis[a].axis.moves ? by_s[a] : X(R(0));
    }
  }

  // Rows of the slowest axis that a sample may read.
  static Reach reach(const SampleJob& job, const FootprintPoint<X>& point) {
    StretchedTaps<X, slopes> taps;
    const int a = job.ndim - 1;
    taps.place(job, a, point.p[a], X(point.footprint[a][0]));
    return reach_of(taps.boundary, taps.cell + taps.axis.first, taps.cell + taps.axis.last, taps.n);
  }
  static Reach reach_of(Boundary boundary, Index first, Index last, Index n) {
    if (first >= 0 && last < n) return {first, last + 1};
    if (boundary == Boundary::zeros || boundary == Boundary::constant)
      return {first > 0 ? first : 0, last < n ? last + 1 : n};
    if (boundary == Boundary::border)
      return {first < 0 ? 0 : first < n ? first : n - 1, (last < 0 ? 0 : last < n ? last : n - 1) + 1};
    return {0, n};
  }
};

// ---- Covariances

template <class X, bool slopes>
struct EllipseTaps {
  using R = RealOf<X>;
  Ellipse<X> ellipse;
  Index cell[3], near[3];  // where taps are mapped from, and where they are
  Boundary boundary[3];
  Index size[3], low, high;
  X heights[row_taps], weights[row_taps];
  EllipseSums<X> all, sums;
  X filled_sum, cover_sum;
  R to_fill, to_mask;  // cotangents

  bool set(const SampleJob& job, FootprintPoint<X>& point, Index lowest, Index beyond) {
    low = lowest;
    high = beyond;
    to_fill = to_mask = R(0);
    if (!place(job, point)) return false;
    all.clear();
    sums.clear();
    filled_sum = cover_sum = X(R(0));
    return true;
  }

  bool place(const SampleJob& job, FootprintPoint<X>& point) {
    for (int a = 0; a < 3; ++a) {
      size[a] = a < job.ndim ? job.size[a] : 1;
      boundary[a] = a < job.ndim ? Boundary(job.boundary[a]) : Boundary::border;
    }
    if (!ellipse.place(job.ndim, point.p, point.footprint, size)) return false;
    for (int a = 0; a < 3; ++a) {
      const Index last = ellipse.last[a] > 1 ? ellipse.last[a] : 1;
      cell[a] = reduced_cell(boundary[a], ellipse.cell[a], ellipse.first[a], last, size[a]);
      near[a] = reduced_cell(Boundary::zeros, ellipse.cell[a], ellipse.first[a], last, size[a]);
    }
    return true;
  }

  static bool is_within(Index i, Index n) { return i >= 0 && i < n; }

  // Calls body(row) for all taps that read a pixel. The first time, when it `counts`, the sums over all taps are made.
  template <class Body>
  PYSTN_HD void rows(const SampleJob& job, bool counts, Body&& body) {
    if (ellipse.lone) {
      weights[0] = heights[0] = X(R(1));
      const Index* const at = ellipse.nearest;
      return visit(job, counts, at[1], at[2], X(R(0)), X(R(0)), at[0], 1, body);
    }
    typename Ellipse<X>::Row row;
    for (Index z = ellipse.first[2]; z <= ellipse.last[2]; ++z)
      for (Index y = ellipse.first[1]; y <= ellipse.last[1]; ++y) {
        if (!ellipse.row(y, z, row)) continue;
        const X dy = ellipse.distance(1, y), dz = ellipse.distance(2, z);
        for (Index x = row.first; x <= row.last; x += row_taps) {
          int count = int(row.last - x < row_taps ? row.last - x + 1 : row_taps), start = 0;
          const R from = R(x);
          for (int i = 0; i < count; ++i) {
            heights[i] = Ellipse<X>::height(ellipse.square_of(row, X(from + R(i)) - ellipse.f[0]));
            weights[i] = heights[i] - X(R(Ellipse<X>::lowest));
          }
          while (count > 0 && !Ellipse<X>::inside(heights[count - 1])) --count;
          while (start < count && !Ellipse<X>::inside(heights[start])) ++start;
          if (start < count) visit(job, counts, y, z, dy, dz, x, count, body, start);
        }
      }
  }

  // Taps start to count of those from x on.
  template <class Body>
  PYSTN_HD void visit(const SampleJob& job, bool counts, Index y, Index z, X dy, X dz, Index x, int count, Body& body,
                      int start = 0) {
    const Index iy = cell[1] + y, iz = cell[2] + z, ix = cell[0] + x;
    const Index to_y = mapped(boundary[1], iy, size[1]), to_z = mapped(boundary[2], iz, size[2]);
    const bool inside_yz = is_within(near[1] + y, size[1]) && is_within(near[2] + z, size[2]);
    const Index at = near[0] + x;
    const bool dropped_yz =
        (to_y < 0 && boundary[1] != Boundary::constant) || (to_z < 0 && boundary[2] != Boundary::constant);
    if (counts) add_part(all, R(1), x, dy, dz, start, count);
    for (int i = start, end; i < count; i = end) {
      const bool inside_x = is_within(at + i, size[0]), inside = inside_x && inside_yz;
      const Index to_x = mapped(boundary[0], ix + i, size[0]);
      end = i + 1;
      if (inside_x)
        end = size[0] - at < count ? int(size[0] - at) : count;
      else
        for (; end < count && !is_within(at + end, size[0]); ++end) {
          const Index next = mapped(boundary[0], ix + end, size[0]);
          if (next != (to_x < 0 ? to_x : to_x + (end - i))) break;
        }
      if (counts && inside) cover_sum += total(i, end);
      if (slopes && counts && inside && to_mask != R(0)) add_part(sums, to_mask, x, dy, dz, i, end);
      if (to_x < 0 || to_y < 0 || to_z < 0) {
        const bool dropped = dropped_yz || (to_x < 0 && boundary[0] != Boundary::constant);
        if (!counts || dropped || !job.fill) continue;
        filled_sum += total(i, end);
        if (slopes && to_fill != R(0)) add_part(sums, to_fill, x, dy, dz, i, end);
        continue;
      }
      Index first = to_x;
      int skip = 0, many = end - i;
      if (job.ndim == 1) {  // taps of the band
        skip = int(low > first ? (low - first < many ? low - first : many) : 0);
        const Index room = high - first;
        many = int(room < many ? (room > 0 ? room : 0) : many);
      } else {
        const Index slowest = job.ndim == 2 ? to_y : to_z;
        if (slowest < low || slowest >= high) continue;
      }
      if (skip < many)
        body(TapRow<X>{{first + skip, to_y, to_z}, many - skip, weights + i + skip, inside, i + skip, 0, 0, x, dy, dz});
    }
  }

  X total(int i, int end) const {
    X sum(R(0));
    for (; i < end; ++i) sum += weights[i];
    return sum;
  }

  void add_part(EllipseSums<X>& to, R h, Index x, X dy, X dz, int start, int end) const {
    const X zero(R(0));
    X w = zero, m0 = zero, m1 = zero, m2 = zero;
    for (int i = start; i < end; ++i) {
      w += weights[i];
      if (!slopes) continue;
      const X dx = ellipse.distance(0, x + i), first = heights[i] * dx;
      m0 += heights[i];
      m1 += first;
      m2 += first * dx;
    }
    if (slopes)
      to.add(dy, dz, w * h, m0 * h, m1 * h, m2 * h);
    else
      to.value += w * h;
  }

  X normalizer() const { return X(R(1)) / all.value; }
  X filled(const SampleJob& /*job*/) const { return filled_sum / all.value; }
  X cover() const { return cover_sum / all.value; }

  void add(const TapRow<X>& row, const X* h) {
    const X zero(R(0));
    X w = zero, m0 = zero, m1 = zero, m2 = zero;
    for (int i = 0; i < row.count; ++i) {
      const int e = row.begin + i;
      const X dx = ellipse.distance(0, row.from + e), moved = heights[e] * h[i], first = moved * dx;
      w += weights[e] * h[i];
      m0 += moved;
      m1 += first;
      m2 += first * dx;
    }
    sums.add(row.dy, row.dz, w, m0, m1, m2);
  }
  void expect(R fill_cotangent, R mask_cotangent) {
    to_fill = fill_cotangent;
    to_mask = mask_cotangent;
  }
  void add_rest(const SampleJob& /*job*/, R /*fill_cotangent*/, R /*mask_cotangent*/) {}

  void gradient(X* to_p, X (*to_footprint)[3]) const { ellipse_gradient(ellipse, sums, all, to_p, to_footprint); }

  static Reach reach(const SampleJob& job, FootprintPoint<X>& point) {
    EllipseTaps taps;
    const int a = job.ndim - 1;
    if (!taps.place(job, point)) return {job.size[a], 0};
    const Index last = taps.ellipse.last[a] > 1 ? taps.ellipse.last[a] : 1;
    const Index first = taps.ellipse.first[a] < 0 ? taps.ellipse.first[a] : 0;
    return ScaleTaps<X, slopes>::reach_of(taps.boundary[a], taps.cell[a] + first, taps.cell[a] + last, job.size[a]);
  }
};

// ---- Elements

inline Index bytes_of(Element type) {
  return type == Element::f64 ? 8 : type == Element::f32 ? 4 : type == Element::u8 ? 1 : 2;
}

// So many elements as numbers of the arithmetic: where they lie, if they are that, or in `room`.
template <class R>
inline const R* load_run(const void* data, Element type, Index at, Index stride, int count, R* room) {
  if (stride == 1 && type == (sizeof(R) == 8 ? Element::f64 : Element::f32)) return static_cast<const R*>(data) + at;
  if (type == Element::f32)
    for (int i = 0; i < count; ++i) room[i] = R(static_cast<const float*>(data)[at + i * stride]);
  else if (type == Element::f64)
    for (int i = 0; i < count; ++i) room[i] = R(static_cast<const double*>(data)[at + i * stride]);
  else if (type == Element::u8)
    for (int i = 0; i < count; ++i) room[i] = R(static_cast<const unsigned char*>(data)[at + i * stride]);
  else
    for (int i = 0; i < count; ++i) room[i] = Elements<Any>::load<R>(data, Type(int(type)), at + i * stride);
  return room;
}

template <class T, class R>
inline void add_run(void* data, Index at, Index stride, int count, const R* __restrict terms) {
  T* __restrict const to = static_cast<T*>(data) + at;
  if (stride == 1)
    for (int i = 0; i < count; ++i) to[i] = T(R(to[i]) + terms[i]);
  else
    for (int i = 0; i < count; ++i) to[i * stride] = T(R(to[i * stride]) + terms[i]);
}

// Sums of products, in an order that follows from their number.
template <class R>
inline R dot(const R* __restrict w, const R* __restrict u, const R* /*du*/, int count) {
  constexpr int lanes = 8;
  if (count < lanes) {
    R sum = w[0] * u[0];
    for (int i = 1; i < count; ++i) sum += w[i] * u[i];
    return sum;
  }
  R sums[lanes];
  for (int l = 0; l < lanes; ++l) sums[l] = w[l] * u[l];
  int i = lanes;
  for (; i + lanes <= count; i += lanes)
    for (int l = 0; l < lanes; ++l) sums[l] += w[i + l] * u[i + l];
  for (int l = 0; i < count; ++i, ++l) sums[l] += w[i] * u[i];
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) sums[l] += sums[l + half];
  return sums[0];
}
template <class R>
inline Dual<R> dot(const Dual<R>* w, const R* u, const R* du, int count) {
  Dual<R> sum(R(0));
  for (int i = 0; i < count; ++i) sum += du ? w[i] * Dual<R>(u[i], du[i]) : w[i] * u[i];
  return sum;
}

template <class R>
inline void add_scaled(R* __restrict to, R g, const R* __restrict u, const R* /*du*/, int count) {
  for (int i = 0; i < count; ++i) to[i] += g * u[i];
}
template <class R>
inline void add_scaled(Dual<R>* to, R g, const R* u, const R* du, int count) {
  for (int i = 0; i < count; ++i) to[i] += Dual<R>(g * u[i], du ? g * du[i] : R(0));
}
template <class R>
inline void add_scaled(Dual<R>* to, Dual<R> w, const R* u, const R* du, int count) {
  for (int i = 0; i < count; ++i) to[i] += du ? w * Dual<R>(u[i], du[i]) : w * u[i];
}

// ---- Directions

// Taps is ScaleTaps or EllipseTaps. With tangents, X = Dual<R>, `forward` is the JVP, `vjp_grid` the gradient to grid
// and footprint of second order, and `vjp_input` that to the input.
template <class X, template <class, bool> class Taps>
struct FootprintSampler {
  using R = RealOf<X>;
  static constexpr bool dual = Arithmetic<X>::dual;

  // An image of the batch, of which rows are read.
  struct Source {
    const SampleJob& job;
    const char* data[2];  // the image and its tangent
    Element type[2];
    const ImageArray* array[2];
    Index at[2];
    R room[2][row_taps > channels_at_once ? row_taps : channels_at_once];

    Source(const SampleJob& job, int64_t n) : job(job), array{&job.input, &job.d_input} {
      for (int k = 0; k < 2; ++k) {
        type[k] = array[k]->type;
        data[k] = static_cast<const char*>(array[k]->data);
        if (data[k]) data[k] += n * array[k]->batch * bytes_of(type[k]);
      }
    }
    bool channels_last() const {
      return job.components == 1 && job.input.channel == 1 && (!dual || !data[1] || job.d_input.channel == 1);
    }
    // Goes to a row; then elements of it, or of neighbouring channels at a tap of it.
    void go_to(const TapRow<X>& row) {
      for (int k = 0; k < 2; ++k) {
        at[k] = 0;
        for (int a = 0; data[k] && a < job.ndim; ++a) at[k] += row.pixel[a] * array[k]->axis[a];
      }
    }
    const R* load(int k, int tap, Index channel, int count, bool along_channels) {
      if (!data[k] || (k == 1 && !dual)) return nullptr;
      const Index from = at[k] + tap * array[k]->axis[0] + channel_offset(job, array[k]->channel, channel);
      return load_run(data[k], type[k], from, along_channels ? 1 : array[k]->axis[0], count, room[k]);
    }
  };

  static Index place_of(const SampleJob& job, const SampleArray& samples, int64_t n, const Span& span, int i) {
    return n * samples.batch + offset_of(job, samples.axis, span) + i * column_stride(job, samples.axis);
  }
  static R sample(const SampleArray& from, Index i) {
    return Elements<Any>::load<R>(from.data, Type(int(from.type)), i);
  }
  static void put(const SampleArray& to, Index i, R x) { Elements<Any>::store<R>(to.data, Type(int(to.type)), i, x); }

  // Calls body(span, i) for the pixels of a chunk.
  template <class Body>
  static void for_each_pixel(const SampleJob& job, int64_t chunk, Body&& body) {
    for_each_strip(job, chunk, [&](const Span& strip) { for_each_of_strip(job, strip, body); });
  }
  template <class Body>
  static void for_each_of_strip(const SampleJob& /*job*/, const Span& strip, Body&& body) {
    for (int r = 0; r < strip.rows; ++r) {
      const Span span{strip.outer, strip.row + r, strip.column, 1, strip.count};
      for (int i = 0; i < strip.count; ++i) body(span, i);
    }
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const int slowest = job.ndim - 1;
    Source source(job, n);
    const bool channels_last = source.channels_last();
    FootprintPoint<X> point;
    Taps<X, false> taps;
    X sum[channels_at_once];
    for_each_pixel(job, chunk % chunks_per_image(job), [&](const Span& span, int i) {
      point.load(job, n, span, i);
      const bool cut = point.cut || !taps.set(job, point, 0, job.size[slowest]);
      const Index at = place_of(job, job.output, n, span, i);
      X normalizer(R(1)), filled(cut && !dual ? R(1) : R(0));
      for (int64_t c0 = 0; c0 < job.channels || c0 == 0; c0 += channels_at_once) {
        const int channels = int(job.channels - c0 < channels_at_once ? job.channels - c0 : channels_at_once);
        for (int c = 0; c < channels; ++c) sum[c] = X(R(0));
        if (!cut) {
          taps.rows(job, c0 == 0, [&](const TapRow<X>& row) {
            source.go_to(row);
            if (channels_last)
              for (int k = 0; k < row.count; ++k) {
                const R* const u = source.load(0, k, c0, channels, true);
                add_scaled(sum, row.weight[k], u, source.load(1, k, c0, channels, true), channels);
              }
            else
              for (int c = 0; c < channels; ++c) {
                const R* const u = source.load(0, 0, c0 + c, row.count, false);
                sum[c] += dot(row.weight, u, source.load(1, 0, c0 + c, row.count, false), row.count);
              }
          });
          if (c0 == 0) {
            normalizer = taps.normalizer();
            if (job.fill) filled = taps.filled(job);
          }
        }
        for (int c = 0; c < channels; ++c) {
          R value = cut ? R(0) : last_of(sum[c] * normalizer);
          if (job.fill && !is_zero(filled)) value += last_of(filled * R(job.fill[c0 + c]));
          put(job.output, at + channel_offset(job, job.output.channel, c0 + c), value);
        }
      }
      if (job.mask.data) put_any(job.mask, place_of(job, job.mask, n, span, i), cut ? R(0) : clipped(taps.cover()));
    });
  }

  static void put_any(const SampleArray& to, Index i, R x) { put(to, i, x); }

  // The mask, or its tangent.
  static R clipped(X cover) {
    const R value = value_of(cover);
    if (value >= R(0) && value <= R(1)) return last_of(cover);
    return dual || value < R(0) ? R(0) : R(1);
  }

  // Gradients to grid and footprint. Where the batch shares one of them a task has all samples of it.
  static void vjp_grid(const SampleJob& job, int64_t chunk) {
    const FootprintJob& feet = *job.footprint;
    const bool shared[2] = {job.grid_batch != job.batch, feet.batch != job.batch};
    const int64_t n0 = chunk / chunks_per_image(job), n1 = shared[0] || shared[1] ? job.batch : n0 + 1;
    const int columns = feet.covariances ? job.ndim : 1;
    FootprintPoint<X> point;
    Taps<X, true> taps;
    for_each_pixel(job, chunk % chunks_per_image(job), [&](const Span& span, int i) {
      R to_grid[3] = {}, to_footprint[3][3] = {};
      for (int64_t n = n0; n < n1; ++n) {
        if (!shared[0])
          for (R& x : to_grid) x = R(0);
        if (!shared[1])
          for (auto& row : to_footprint)
            for (R& x : row) x = R(0);
        point.load(job, n, span, i);
        if (!point.cut && taps.set(job, point, 0, job.size[job.ndim - 1])) {
          X by_p[3], by_footprint[3][3];
          pull(job, n, span, i, taps, by_p, by_footprint);
          for (int a = 0; a < job.ndim; ++a) {
            to_grid[a] += point.factor[a] * last_of(by_p[a]);
            for (int b = 0; b < columns; ++b) to_footprint[a][b] += last_of(by_footprint[a][b]);
          }
        }
        if (!shared[0]) put_grid(job, n, span, i, to_grid);
        if (!shared[1]) put_footprint(job, n, span, i, columns, to_footprint);
      }
      if (shared[0]) put_grid(job, 0, span, i, to_grid);
      if (shared[1]) put_footprint(job, 0, span, i, columns, to_footprint);
    });
  }

  static void put_number(const SampleJob& job, void* data, Index at, R x) {
    if (job.grid_type == Element::f32)
      static_cast<float*>(data)[at] = float(x);
    else
      static_cast<double*>(data)[at] = double(x);
  }
  static void put_grid(const SampleJob& job, int64_t n, const Span& span, int i, const R* x) {
    if (!job.grad_grid.data) return;
    for (int a = 0; a < job.ndim; ++a)
      put_number(job, job.grad_grid.data, grid_offset(job, job.grad_grid, n, span, i, a), x[a]);
  }
  static void put_footprint(const SampleJob& job, int64_t n, const Span& span, int i, int columns, const R (*x)[3]) {
    const FootprintArray& to = job.footprint->grad_footprint;
    if (!to.data) return;
    const Index at = FootprintPoint<X>::place(job, to, n, span, i);
    for (int a = 0; a < job.ndim; ++a)
      for (int b = 0; b < columns; ++b) put_number(job, to.data, at + a * to.row + b * to.column, x[a][b]);
  }

  // The gradients of one sample to its position and its footprint.
  static void pull(const SampleJob& job, int64_t n, const Span& span, int i, Taps<X, true>& taps, X* by_p,
                   X (*by_footprint)[3]) {
    const Index at = place_of(job, job.output, n, span, i);
    const R to_mask = job.mask.data ? sample(job.mask, place_of(job, job.mask, n, span, i)) : R(0);
    R to_fill = R(0), g[channels_at_once];
    for (int64_t c = 0; job.fill && c < job.channels; ++c)
      to_fill += sample(job.output, at + channel_offset(job, job.output.channel, c)) * R(job.fill[c]);
    taps.expect(to_fill, to_mask);
    Source source(job, n);
    const bool channels_last = source.channels_last();
    X h[row_taps];
    for (int64_t c0 = 0; c0 < job.channels || c0 == 0; c0 += channels_at_once) {
      const int channels = int(job.channels - c0 < channels_at_once ? job.channels - c0 : channels_at_once);
      for (int c = 0; c < channels; ++c)
        g[c] = sample(job.output, at + channel_offset(job, job.output.channel, c0 + c));
      taps.rows(job, c0 == 0, [&](const TapRow<X>& row) {
        source.go_to(row);
        for (int k = 0; k < row.count; ++k) h[k] = X(R(0));
        if (channels_last && channels > 0)
          for (int k = 0; k < row.count; ++k) {
            const R* const u = source.load(0, k, c0, channels, true);
            h[k] = weighed<X>(g, u, source.load(1, k, c0, channels, true), channels);
          }
        else
          for (int c = 0; c < channels; ++c) {
            const R* const u = source.load(0, 0, c0 + c, row.count, false);
            add_scaled(h, g[c], u, source.load(1, 0, c0 + c, row.count, false), row.count);
          }
        taps.add(row, h);
      });
    }
    taps.add_rest(job, to_fill, to_mask);
    taps.gradient(by_p, by_footprint);
  }

  template <class Y>
  static Y weighed(const R* g, const R* u, const R* du, int count) {
    if constexpr (Arithmetic<Y>::dual)
      return Y(dot<R>(g, u, nullptr, count), du ? dot<R>(g, du, nullptr, count) : R(0));
    else
      return dot<R>(g, u, nullptr, count);
  }

  // grad_input += output w, or output times the tangent of w.
  static void vjp_input(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear(job);
    const ImageArray& image = job.grad_input;
    const bool channels_last = image.channel == 1 && job.components == 1;
    FootprintPoint<X> point;
    Taps<X, false> taps;
    R g[channels_at_once], terms[row_taps > channels_at_once ? row_taps : channels_at_once];
    const auto add = [&](Index at, Index stride, int count) {
      if (image.type == Element::f64)
        add_run<double>(image.data, at, stride, count, terms);
      else
        add_run<float>(image.data, at, stride, count, terms);
    };
    for_each_strip_of(job, part, [&](int64_t n, const Span& strip) {
      for_each_of_strip(job, strip, [&](const Span& span, int i) {
        point.load(job, n, span, i);
        if (point.cut || !taps.set(job, point, part.low, part.high)) return;
        const Index from = place_of(job, job.output, n, span, i);
        if (!counted(job, taps)) return;
        const X normalizer = taps.normalizer();
        for (int64_t c0 = part.channel0; c0 < part.channel1; c0 += channels_at_once) {
          const int channels = int(part.channel1 - c0 < channels_at_once ? part.channel1 - c0 : channels_at_once);
          for (int c = 0; c < channels; ++c)
            g[c] = sample(job.output, from + channel_offset(job, job.output.channel, c0 + c));
          taps.rows(job, false, [&](const TapRow<X>& row) {
            Index at = part.n0 * image.batch;
            for (int a = 0; a < job.ndim; ++a) at += row.pixel[a] * image.axis[a];
            if (channels_last) {
              for (int k = 0; k < row.count; ++k) {
                const R w = last_of(row.weight[k] * normalizer);
                for (int c = 0; c < channels; ++c) terms[c] = g[c] * w;
                add(at + k * image.axis[0] + c0, 1, channels);
              }
              return;
            }
            R w[row_taps];
            for (int k = 0; k < row.count; ++k) w[k] = last_of(row.weight[k] * normalizer);
            for (int c = 0; c < channels; ++c) {
              for (int k = 0; k < row.count; ++k) terms[k] = g[c] * w[k];
              add(at + channel_offset(job, image.channel, c0 + c), image.axis[0], row.count);
            }
          });
        }
      });
    });
  }

  // Makes the sum that the weights are divided by, if it is not known yet.
  static bool counted(const SampleJob& job, EllipseTaps<X, false>& taps) {
    taps.rows(job, true, [](const TapRow<X>&) {});
    return true;
  }
  static bool counted(const SampleJob& /*job*/, ScaleTaps<X, false>& /*taps*/) { return true; }

  template <class Body>
  static void for_each_strip_of(const SampleJob& job, const Part& part, Body&& body) {
    for (int64_t n = part.n0; n < part.n1; ++n)
      for (int64_t chunk = 0; chunk < chunks_per_image(job); ++chunk) {
        const Reach* reach = job.reach ? reach_at(job, n, chunk) : nullptr;
        for_each_strip(job, chunk, [&](const Span& strip) {
          if (!reach || part.meets(*reach++)) body(n, strip);
        });
      }
  }

  // The table of reaches has images where grids and footprints differ.
  static Reach* reach_at(const SampleJob& job, int64_t n, int64_t chunk) {
    const int64_t image = job.grid_batch == 1 && job.footprint->batch == 1 ? 0 : n;
    return job.reach + (image * chunks_per_image(job) + chunk) * strips_per_chunk(job);
  }

  static void reach(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job), of_image = chunk % chunks_per_image(job);
    Reach* to = reach_at(job, n, of_image);
    FootprintPoint<X> point;
    for_each_strip(job, of_image, [&](const Span& strip) {
      Reach all{job.size[job.ndim - 1], 0};
      for_each_of_strip(job, strip, [&](const Span& span, int i) {
        point.load(job, n, span, i);
        if (point.cut) return;
        const Reach one = Taps<X, false>::reach(job, point);
        all.low = one.low < all.low ? one.low : all.low;
        all.high = one.high > all.high ? one.high : all.high;
      });
      *to++ = all;
    });
  }
};

template <class R, template <class, bool> class Taps>
SampleChunk footprint_direction(Direction direction) {
  switch (direction) {
    case Direction::forward:
      return FootprintSampler<R, Taps>::forward;
    case Direction::vjp_input:
      return FootprintSampler<R, Taps>::vjp_input;
    case Direction::vjp_grid:
      return FootprintSampler<R, Taps>::vjp_grid;
    case Direction::reach:
      return FootprintSampler<R, Taps>::reach;
    case Direction::jvp:
      return FootprintSampler<Dual<R>, Taps>::forward;
    case Direction::push:
      return FootprintSampler<Dual<R>, Taps>::vjp_input;
    case Direction::vjp2_grid:
      return FootprintSampler<Dual<R>, Taps>::vjp_grid;
    default:
      return nullptr;
  }
}

}  // namespace pystn::PYSTN_LEVEL
