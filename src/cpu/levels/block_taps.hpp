// The taps of a block of output pixels, one pixel a lane: where they are, read row by row into a vector for each, and
// their sums with the weights of a run, or of a strip of usual taps. For blocks.hpp.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "rows_of_taps.hpp"
#include "usual_taps.hpp"

namespace pystn::PYSTN_LEVEL {

template <class R, int S, int ND>
struct BlockTaps {
  using V = typename Vectors<R>::V;
  using Flags = typename Vectors<R>::Flags;
  using Mask = decltype(V{} == V{});
  static constexpr int lanes = Vectors<R>::lanes;
  static constexpr bool flat = S <= 2;
  static constexpr int products = flat ? power(S, ND) : 1;

  template <class Vector, class Number>
  static PYSTN_HD Vector load(const Number* from) {
    Vector v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
  }
  static PYSTN_HD V load(const R* from) { return load<V>(from); }

  // How a block is read.
  enum class Reading { nothing, adjacent, mixed };

  // What a run's blocks are.
  struct Blocks {
    bool adjacent, nothing;                      // all of them are
    alignas(64) Flag neighbours[strip_columns];  // pixels whose taps are adjacent
    alignas(64) Flag reads[strip_columns];       // that read anything
    // Of pixels in blocks that are not adjacent.
    alignas(64) Flag inside[ND][S][strip_columns];

    void set(const Run<R, ND>& run, int count) {
      if (run.plain) {
        adjacent = true;
        nothing = false;
        return;
      }
      for (int i = 0; i < count; ++i) {
        Flag whole = !run.cut[i];
        for (int a = 0; a < ND; ++a) whole &= run.axis[a].adjacent[i];
        neighbours[i] = reads[i] = whole;
      }
      adjacent = all_of(neighbours, count);
      nothing = false;
      if (adjacent) return;
      for (int i = 0; i < count; ++i) reads[i] = !run.cut[i];
      for (int a = 0; a < ND; ++a) {
        alignas(64) Flag some[strip_columns] = {};
        for (int k = 0; k < S; ++k) {
          alignas(64) int at[strip_columns];
          run.axis[a].indices(k, count, at);
          Flag* __restrict const in = inside[a][k];
          for (int i = 0; i < count; ++i) some[i] |= in[i] = Flag(at[i] >= 0);
        }
        for (int i = 0; i < count; ++i) reads[i] &= some[i];
      }
      Flag any = 0;
      for (int i = 0; i < count; ++i) any |= reads[i];
      nothing = !any;
    }

    // Leaves out the pixels that are not part(i); whether any are.
    template <class Part>
    bool keep(const Part& part, int count) {
      Flag any = 0;
      for (int i = 0; i < count; ++i) {
        const Flag takes = part(i), whole = adjacent || neighbours[i];
        reads[i] = takes & (adjacent ? 0 : reads[i]);
        neighbours[i] = takes & whole;
        any |= takes;
      }
      adjacent = false;
      return any;
    }

    PYSTN_HD Reading reading(int i) const {
      if (adjacent) return Reading::adjacent;
      Flag all = 1, any = 0;
      for (int l = i; l < i + lanes; ++l) all &= neighbours[l], any |= reads[l];
      return all ? Reading::adjacent : any ? Reading::mixed : Reading::nothing;
    }
  };

  // Where the taps of a run are in an image.
  struct Places {
    const R* image;
    Index batch, channel;
    Index stride[ND];
    alignas(64) int first[strip_columns];  // offset of the first tap, where taps are adjacent
    alignas(64) int along[ND][S][strip_columns];

    explicit Places(const ImageArray& array)
        : image(static_cast<const R*>(array.data)), batch(array.batch), channel(array.channel) {
      for (int a = 0; a < ND; ++a) stride[a] = array.axis[a];
    }

    void set(const Run<R, ND>& run, int count, const Blocks& blocks) {
      for (int i = 0; i < count; ++i) {
        unsigned offset = 0;  // any bits where taps are not adjacent
        for (int a = 0; a < ND; ++a) offset += unsigned(run.axis[a].first[i]) * unsigned(stride[a]);
        first[i] = int(offset);
      }
      if (blocks.adjacent) return;
      for (int a = 0; a < ND; ++a)
        for (int k = 0; k < S; ++k) {
          alignas(64) int at[strip_columns];
          run.axis[a].indices(k, count, at);
          const int step = int(stride[a]);
          int* __restrict const to = along[a][k];
          for (int i = 0; i < count; ++i) to[i] = at[i] < 0 ? 0 : at[i] * step;
        }
      for (int i = 0; i < count; ++i) first[i] = blocks.neighbours[i] ? first[i] : 0;  // its row of taps is another
      for (int a = 0; S == 1 && a < ND; ++a)
        for (int i = 0; i < count; ++i) first[i] = a == 0 ? along[0][0][i] : first[i] + along[a][0][i];
    }
  };

  // Reads rows of taps of the block at pixel i of a run: the taps so far are where the cursor is.
  struct Adjacent {
    const R* at;
    const Places& places;
    int i;

    PYSTN_HD Adjacent(const Places& places, const Blocks&, int i, int64_t n, int64_t c)
        : at(places.image + n * places.batch + c * places.channel), places(places), i(i) {}
    PYSTN_HD Adjacent next(int a, int k) const {
      Adjacent there = *this;
      there.at += k * places.stride[a];
      return there;
    }
    PYSTN_HD void row(V (&tap)[S]) const { Rows<S>::read(at, places.first + i, tap); }
  };

  // Elements at the offsets of a block's lanes that are wanted, 0 for the others.
  static PYSTN_HD V load_some(const R* from, const int* first, Flags wanted) {
#if defined(__AVX512F__) && defined(__AVX512VL__)
    if constexpr (sizeof(R) == 4) {
      const __mmask16 some = _mm512_test_epi32_mask(__m512i(wanted), __m512i(wanted));
      return V(_mm512_mask_i32gather_ps(_mm512_setzero_ps(), some, _mm512_loadu_si512(first), from, 4));
    } else {
      const __mmask8 some = _mm256_test_epi32_mask(__m256i(wanted), __m256i(wanted));
      const __m256i offset = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first));
      return V(_mm512_mask_i32gather_pd(_mm512_setzero_pd(), some, offset, from, 8));
    }
#elif defined(__AVX2__)
    if constexpr (sizeof(R) == 4) {
      const __m256i some = _mm256_slli_epi32(__m256i(wanted), 31),
                    offset = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first));
      return V(_mm256_mask_i32gather_ps(_mm256_setzero_ps(), from, offset, _mm256_castsi256_ps(some), 4));
    } else {
      const __m256i some = _mm256_slli_epi64(_mm256_cvtepi32_epi64(__m128i(wanted)), 63);
      const __m128i offset = _mm_loadu_si128(reinterpret_cast<const __m128i*>(first));
      return V(_mm256_mask_i32gather_pd(_mm256_setzero_pd(), from, offset, _mm256_castsi256_pd(some), 8));
    }
#else
    alignas(vector_bytes) R some[lanes] = {};
    for (int l = 0; l < lanes; ++l)
      if (wanted[l]) some[l] = from[first[l]];
    return load(some);
#endif
  }

  // The same where some pixels' taps are not adjacent, or not in the image.
  struct Mixed {
    const R* image;
    const Places& places;
    const Blocks& blocks;
    int i, tap[ND] = {};

    PYSTN_HD Mixed(const Places& places, const Blocks& blocks, int i, int64_t n, int64_t c)
        : image(places.image + n * places.batch + c * places.channel), places(places), blocks(blocks), i(i) {}
    PYSTN_HD Mixed next(int a, int k) const {
      Mixed there = *this;
      there.tap[a] = k;
      return there;
    }
    PYSTN_APART void row(V (&to)[S]) const {
      Flags lit = load<Flags>(blocks.reads + i), line{};
      for (int a = 1; a < ND; ++a) {
        lit &= load<Flags>(blocks.inside[a][tap[a]] + i);
        line += load<Flags>(places.along[a][tap[a]] + i);
      }
      for (int k = 0; k < S; ++k) {
        const Flags offset = line + load<Flags>(places.along[0][k] + i);
        alignas(vector_bytes) int at[lanes];
        __builtin_memcpy(at, &offset, sizeof at);
        to[k] = load_some(image, at, lit & load<Flags>(blocks.inside[0][k] + i));
      }
    }
  };

  // The weights of tap k on an axis, and their derivatives: those of a run, pixel by pixel,
  struct Weights {
    const Run<R, ND>& run;

    PYSTN_HD const R* w(int a, int k) const { return run.axis[a].w + k * strip_columns; }
    PYSTN_HD const R* dw(int a, int k) const { return run.axis[a].dw + k * strip_columns; }
    PYSTN_HD V slope(int a, int k, int i) const { return load(dw(a, k) + i); }
    PYSTN_HD V curve(int a, int k, int i) const { return load(run.axis[a].d2w + k * strip_columns + i); }
  };

  // or of the usual kernels: of a strip, unless they are many.
  static constexpr int together = S <= 2 ? strip_rows : 1;
  template <int order>
  using KnownTaps = UsualTaps<R, S, ND, false, together, order>;
  template <int order>
  struct UsualWeights {
    const KnownTaps<order>& taps;
    int entry = 0;  // that of pixel 0

    PYSTN_HD const R* w(int a, int k) const { return taps.w[a][k] + entry; }
    PYSTN_HD V slope(int a, int k, int i) const {
      return S == 2 ? V{} + R(2 * k - 1) : load(taps.dw[a][k] + entry + i);
    }
    PYSTN_HD V curve(int, int, int) const { return V{}; }
    PYSTN_HD const R* factor_of(int a) const { return taps.factor_of(a) + entry; }
  };

  // The sum over the taps of a block on the first L axes, with derivatives up to `order`.
  template <int order, int L, class Cursor, class From>
  static PYSTN_HD Jet<V, L> gather(const Cursor& at, const From& from) {
    Jet<V, L> sum;
    const auto add = [&](const Jet<V, L - 1>& inner, int k) {
      sum.template add<order>(inner, load(from.w(L - 1, k) + at.i), order >= 1 ? from.slope(L - 1, k, at.i) : V{},
                              order >= 2 ? from.curve(L - 1, k, at.i) : V{});
    };
    if constexpr (L == 1) {
      V tap[S];
      at.row(tap);
      for (int k = 0; k < S; ++k) {
        Jet<V, 0> pixel;
        pixel.value = tap[k];
        add(pixel, k);
      }
    } else if constexpr (S == 2) {
      add(gather<order, L - 1>(at.next(L - 1, 0), from), 0);
      add(gather<order, L - 1>(at.next(L - 1, 1), from), 1);
    } else {
#pragma GCC unroll 1
      for (int k = 0; k < S; ++k) add(gather<order, L - 1>(at.next(L - 1, k), from), k);
    }
    return sum;
  }

  // The taps of a block on the first L axes; on all.
  template <int L, class Cursor>
  static PYSTN_HD void read(const Cursor& at, V* tap) {
    if constexpr (L == 1) {
      V row[S];
      at.row(row);
      for (int k = 0; k < S; ++k) tap[k] = row[k];
    } else {
      for (int k = 0; k < S; ++k) read<L - 1>(at.next(L - 1, k), tap + k * power(S, L - 1));
    }
  }

  template <class Cursor>
  static PYSTN_HD void read_all(const Cursor& at, V (&tap)[products]) {
    read<ND>(at, tap);
  }

  // Products of the axes' weights, those with the slope of one axis, and their sum.
  template <bool slopes>
  struct FlatWeights {
    V weight[products], slope[ND][slopes ? products : 1], along[slopes ? products : 1];

    template <class From>
    PYSTN_HD FlatWeights(const From& from, int i) {
      for (int k = 0; flat && k < products; ++k) {
        V w[ND], dw[ND], sum = {};
        for (int a = 0, rest = k; a < ND; ++a, rest /= S) {
          w[a] = load(from.w(a, rest % S) + i);
          if (slopes) dw[a] = from.slope(a, rest % S, i);
        }
        weight[k] = w[0];
        for (int a = 1; a < ND; ++a) weight[k] *= w[a];
        for (int a = 0; slopes && a < ND; ++a) {
          V s = dw[a];
          for (int b = 0; b < ND; ++b)
            if (b != a) s *= w[b];
          slope[a][k] = s;
          sum += s;
        }
        if (slopes) along[k] = sum;
      }
    }
  };

  static PYSTN_HD V contract(const V (&weight)[products], const V (&tap)[products]) {
    V sum = weight[0] * tap[0];
    for (int k = 1; k < products; ++k) sum += weight[k] * tap[k];
    return sum;
  }

  template <class Cursor, class From>
  static PYSTN_HD V value(const Cursor& at, const From& from, const V (&weight)[products]) {
    if constexpr (flat) {
      V tap[products];
      read_all(at, tap);
      return contract(weight, tap);
    } else {
      return gather<0, ND>(at, from).value;
    }
  }

  template <class Cursor, class From>
  static PYSTN_HD void slopes(const Cursor& at, const From& from, const FlatWeights<true>& weights, V (&slope)[ND]) {
    if constexpr (flat) {
      V tap[products];
      read_all(at, tap);
      for (int a = 0; a < ND; ++a) slope[a] = contract(weights.slope[a], tap);
    } else {
      const Jet<V, ND> moved = gather<1, ND>(at, from);
      for (int a = 0; a < ND; ++a) slope[a] = moved.slope[a];
    }
  }

  // Calls body(way of the cursor's type) for a block that reads anything.
  template <class Cursor_>
  struct Way {
    using Cursor = Cursor_;
  };
  template <class Body>
  static PYSTN_HD void by_reading(Reading reading, Body&& body) {
    if (reading == Reading::adjacent)
      body(Way<Adjacent>{});
    else
      body(Way<Mixed>{});
  }

  // Pixels that read nothing have the value 0, whatever their weights.
  static PYSTN_HD V where_read(const Blocks& blocks, Reading reading, int i, V x) {
    for (int l = 0; reading == Reading::mixed && l < lanes; ++l) x[l] = blocks.reads[i + l] ? x[l] : R(0);
    return x;
  }

  // Reads rows of taps of plain pixels, from pixel i of a run on.
  template <class Taps>
  struct Plain {
    const R* at;
    const Taps& taps;
    const int64_t* stride;
    int i;

    PYSTN_HD Plain next(int a, int k) const { return {at + k * stride[a], taps, stride, i}; }
    PYSTN_HD void row(V (&tap)[S]) const { Rows<S>::read(at, taps.first + i, tap); }
  };

  // The pixels of a block whose tap k on an axis is read, as StripTaps::reads.
  template <class Taps>
  static PYSTN_HD Flags reads(const Taps& taps, int a, int k, int i) {
    const Flags at = load<Flags>(taps.cell[a] + i) + k;
    Flags in = (at >= taps.begin[a]) & (at < taps.end[a]) & 1;
    if constexpr (S > 2) {
      const V zero{}, w = load(taps.w[a][k] + i);
      auto busy = w != zero;
      if constexpr (Taps::has_slopes) busy |= load(taps.dw[a][k] + i) != zero;
      in &= __builtin_convertvector(busy, Flags);
    }
    return in;
  }
  static PYSTN_HD bool any_of(const Flags& flags) {
    constexpr int words = sizeof(Flags) / 8;
    uint64_t word[words], some = 0;
    __builtin_memcpy(word, &flags, sizeof flags);
    for (int l = 0; l < words; ++l) some |= word[l];
    return some != 0;
  }

  // A row of the taps of a block, of which some are outside and read 0: whole rows are read, and some other where none
  // of one counts, unless one of them begins before the image or ends behind it, or rows are of one pixel, where the
  // stride is 0.
  struct LitRow {
    Flags in[S], counts;
    bool whole;
    alignas(vector_bytes) int from[lanes];

    // The row at offset `moved` from the first tap, of pixels that are `lit`.
    template <class Taps>
    PYSTN_HD void place(const Taps& taps, int i, const Flags& lit, int moved) {
      counts = Flags{};
      for (int k = 0; k < S; ++k) counts |= in[k] = lit & reads(taps, 0, k, i);
      const Flags offset = load<Flags>(taps.first + i) + moved;
      const Flags beyond = counts & ((offset < taps.least) | (offset > taps.most));
      whole = vector_bytes < 64 && taps.least <= taps.most && !any_of(beyond);
      const Flags some = counts | !whole ? offset : Flags{} + taps.least;
      __builtin_memcpy(from, &some, sizeof some);
    }
    PYSTN_HD void read(const R* image, int64_t step, V (&tap)[S]) const {
      if (whole) {
        Rows<S>::read(image, from, tap);
        for (int k = 0; k < S; ++k) tap[k] = __builtin_convertvector(in[k] != 0, Mask) ? tap[k] : V{};
      } else {
        for (int k = 0; k < S; ++k) tap[k] = load_some(image + k * step, from, in[k]);
      }
    }
  };

  // Reads such rows, from pixel i of a run on; `lit` are those whose taps on the axes so far are inside.
  template <class Taps>
  struct Lit {
    const R* image;
    const Taps& taps;
    const int64_t* stride;
    int i;
    Flags lit;
    int moved = 0;

    PYSTN_HD Lit next(int a, int k) const {
      return {image, taps, stride, i, lit & reads(taps, a, k, i), moved + int(k * stride[a])};
    }
    PYSTN_HD void row(V (&tap)[S]) const {
      LitRow one;
      one.place(taps, i, lit, moved);
      one.read(image, stride[0], tap);
    }
  };

  // The same of all axes, where rows are few and known once for all channels of a block.
  struct LitRows {
    static constexpr int count = products / S;
    LitRow row[count];
    int64_t step;

    struct At {
      const R* image;
      const LitRows& rows;
    };

    template <class Taps>
    PYSTN_HD LitRows(const Taps& taps, const int64_t* stride, int i) : step(stride[0]) {
      for (int r = 0; r < count; ++r) {
        Flags lit = Flags{} + 1;
        int moved = 0;
        for (int a = 1, rest = r; a < ND; ++a, rest /= S) {
          lit &= reads(taps, a, rest % S, i);
          moved += int(rest % S * stride[a]);
        }
        row[r].place(taps, i, lit, moved);
      }
    }
    PYSTN_HD At at(const R* image) const { return {image, *this}; }
    // Pixels that read anything.
    PYSTN_HD Flags reading() const {
      Flags any{};
      for (int r = 0; r < count; ++r) any |= row[r].counts;
      return any;
    }
  };
  static PYSTN_HD void read_all(const typename LitRows::At& at, V (&tap)[products]) {
    for (int r = 0; r < LitRows::count; ++r) {
      V row[S];
      at.rows.row[r].read(at.image, at.rows.step, row);
      for (int k = 0; k < S; ++k) tap[r * S + k] = row[k];
    }
  }

  // Where they are many.
  template <class Taps>
  struct LitAxes {
    Lit<Taps> first;

    PYSTN_HD LitAxes(const Taps& taps, const int64_t* stride, int i) : first{nullptr, taps, stride, i, Flags{} + 1} {}
    PYSTN_HD Lit<Taps> at(const R* image) const { return {image, first.taps, first.stride, first.i, first.lit}; }
    PYSTN_HD Flags reading() const {
      Flags all = first.lit;
      for (int a = 0; a < ND; ++a) {
        Flags any{};
        for (int k = 0; k < S; ++k) any |= reads(first.taps, a, k, first.i);
        all &= any;
      }
      return all;
    }
  };
  template <class Taps>
  using OddTaps = typename std::conditional<flat, LitRows, LitAxes<Taps>>::type;

#if defined(__AVX2__) && !defined(__AVX512F__)
  static constexpr bool has_windows = std::is_same<R, float>::value && S == 4 && ND == 2;

  // Windows of four pixels of a row that hold the taps of a block's pixels, moved into the image by its boundary: one
  // load, in which a permutation finds the taps.
  struct Windows {
    alignas(vector_bytes) int first[lanes], line[S][lanes], tap[lanes][S];

    // Bits of the pixels, by their first taps, that have one.
    int place(const SampleJob& job, const Flags& cell_x, const Flags& cell_y) {
      const int width = int(job.size[0]);
      Flags x[S], y[S], has = moved(job, 0, cell_x, x) & moved(job, 1, cell_y, y), from = Flags{} + (width - S);
      for (int k = 0; k < S; ++k) from = x[k] < from ? x[k] : from;
      for (int k = 0; k < S; ++k) has &= x[k] - from < S;
      from &= has;
      __builtin_memcpy(first, &from, sizeof from);
      alignas(vector_bytes) int within[S][lanes];
      for (int k = 0; k < S; ++k) {
        const Flags at = (x[k] - from) & has, offset = (y[k] & has) * int(job.input.axis[1]);
        __builtin_memcpy(within[k], &at, sizeof at);
        __builtin_memcpy(line[k], &offset, sizeof offset);
      }
      for (int l = 0; l < lanes; ++l)
        for (int k = 0; k < S; ++k) tap[l][k] = within[k][l];
      return _mm256_movemask_ps(_mm256_castsi256_ps(__m256i(has)));
    }

    struct At {
      const R* image;
      const Windows& windows;
      int i, k;  // entry of the weights, row of taps

      PYSTN_HD At next(int, int row) const { return {image, windows, i, row}; }
      PYSTN_HD void row(V (&to)[S]) const {
        const Windows& w = windows;
        const auto taps = [&](int l) __attribute__((always_inline)) {
          const __m128i at = _mm_load_si128(reinterpret_cast<const __m128i*>(w.tap[l]));
          return _mm_permutevar_ps(_mm_loadu_ps(image + (w.first[l] + w.line[k][l])), at);
        };
        Rows<S>::transpose(taps, to);
      }
    };

   private:
    // Where the taps of cells on an axis are; which cells are near enough for that.
    static PYSTN_HD Flags moved(const SampleJob& job, int a, const Flags& cell, Flags (&to)[S]) {
      alignas(vector_bytes) int first[lanes], at[S][lanes];
      __builtin_memcpy(first, &cell, sizeof first);
      with_tap_boundary(Boundary(job.boundary[a]), job.size[a], [&](auto boundary) {
        for (int k = 0; k < S; ++k)
          for (int l = 0; l < lanes; ++l) at[k][l] = boundary.nearby_tap(first[l] + k);
      });
      for (int k = 0; k < S; ++k) to[k] = load<Flags>(at[k]);
      return is_nearby<S>(cell, int(job.size[a]));
    }
  };
#else
  static constexpr bool has_windows = false;
#endif

  // What the block at entry i has of plain and of dark pixels.
  template <class Taps>
  struct Light {
    const Taps& taps;
    int i;

    PYSTN_HD bool all() const { return taps.all || taps.plain_bits(i, lanes) == first_bits(lanes); }
    PYSTN_HD bool any() const { return taps.all || taps.plain_bits(i, lanes); }
    PYSTN_HD bool none() const { return !taps.all && taps.dark_bits(i, lanes) == first_bits(lanes); }
  };
  // The end of the plain blocks from pixel i of a run of `count` on, which begins with an entry.
  template <class Taps>
  static PYSTN_HD int end_of_plain(const Taps& taps, int entry, int i, int count) {
    while (i < count && Light<Taps>{taps, entry + i}.all()) i += lanes;
    return i;
  }
};

}  // namespace pystn::PYSTN_LEVEL
