// The sampler's second stage with channels in the lanes of vectors, for images whose channels lie next
// to each other: float32 or float64, two channels and more; 1, 2, 3, 4, 6 or 8 taps on every axis. It is
// the loop of sampling.hpp over vectors instead of numbers, and gives the same bits, but for the
// gradient to the coordinates, whose sum over the channels is made in lanes, in an order of its own.
#pragma once

#if defined(__GNUC__)
#define PYSTN_CHANNELS 1

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "few_channels.hpp"
#include "stream.hpp"
#include "usual_taps.hpp"

namespace pystn::PYSTN_LEVEL {

// The widest vectors, of channels next to each other in memory.
template <class R>
struct WideLanes {
  using V = typename Vectors<R>::V;
  static constexpr int most = Vectors<R>::lanes;

  explicit WideLanes(int64_t) {}
  PYSTN_HD V load(const R* from) const {
    V v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
  }
  PYSTN_HD void store(R* to, const V& v) const { __builtin_memcpy(to, &v, sizeof v); }
};

constexpr int few_bytes = 16;  // of a pixel of few channels
template <class R>
constexpr int few = few_bytes / int(sizeof(R));

// Vectors of 16 bytes, of which some lanes may be beyond the last channel: these are neither read nor written, and 0.
template <class R>
struct FewLanes {
  typedef R V __attribute__((vector_size(few_bytes)));
  static constexpr int most = few<R>;
  const int count;

  explicit FewLanes(int64_t left) : count(left < most ? int(left) : most) {}
  PYSTN_HD V load(const R* from) const {
    V v{};
    if (count == most) {
      __builtin_memcpy(&v, from, sizeof v);
      return v;
    }
#if defined(__SSE2__)
    if constexpr (most == 4) {
      if (count == 1) return V(_mm_load_ss(from));
      const __m128 two = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
      return V(count == 2 ? two : _mm_movelh_ps(two, _mm_load_ss(from + 2)));
    }
#endif
    for (int l = 0; l < most - 1; ++l)
      if (l < count) v[l] = from[l];
    return v;
  }
  PYSTN_HD void store(R* to, const V& v) const {
    if (count == most) {
      __builtin_memcpy(to, &v, sizeof v);
      return;
    }
#if defined(__SSE2__)
    if constexpr (most == 4) {
      const __m128 four(v);
      if (count == 1) return _mm_store_ss(to, four);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_castps_si128(four));
      if (count == 3) _mm_store_ss(to + 2, _mm_movehl_ps(four, four));
      return;
    }
#endif
    for (int l = 0; l < most - 1; ++l)
      if (l < count) to[l] = v[l];
  }
};

// x in every lane, its sign too if it is 0.
template <class V, class R>
PYSTN_HD V in_all(R x) {
  return x - V{};
}

// Calls body(lanes, c) for channels c < end; if `wide`, with the widest vectors as far as they go.
template <bool wide, class R, class Body>
PYSTN_HD void across(int64_t c, int64_t end, const Body& body) {
  if constexpr (wide)
    for (; c + WideLanes<R>::most <= end; c += WideLanes<R>::most) body(WideLanes<R>(end - c), c);
  for (; c < end; c += few<R>) body(FewLanes<R>(end - c), c);
}

template <class R, int S, int ND>
struct ChannelSampler : Sampler<R, R, S, ND> {
  using General = Sampler<R, R, S, ND>;
  static constexpr bool flat = General::flat;
  static constexpr int products = flat ? power(S, ND) : 1;
  static constexpr bool is_in_pairs = S == 2 && sizeof(R) == sizeof(float);  // as few_channels.hpp has it

  // The products of the weights on the axes; and those with the slope of one axis, their sum.
  template <bool slopes>
  struct Products {
    alignas(64) R weight[products][strip_columns], along[slopes ? products : 1][strip_columns];

    void set(const Run<R, ND>& run, int count) {
      for (int k = 0; flat && k < products; ++k) {
        const R *w[ND], *dw[ND];
        for (int a = 0, rest = k; a < ND; ++a, rest /= S) {
          w[a] = run.axis[a].w + rest % S * strip_columns;
          dw[a] = run.axis[a].dw + rest % S * strip_columns;
        }
        for (int i = 0; i < count; ++i) {
          R product = R(1), sum = R(0);
          for (int a = 0; a < ND; ++a) product *= w[a][i];
          weight[k][i] = product;
          for (int a = 0; slopes && a < ND; ++a) {
            R s = dw[a][i];
            for (int b = 0; b < ND; ++b)
              if (b != a) s *= w[b][i];
            sum += s;
          }
          if (slopes) along[k][i] = sum;
        }
      }
    }
  };

  // Where the taps of a run are in an image.
  struct Places {
    R* pixels;
    Index batch, stride[ND], corner[products];
    alignas(64) Index first[strip_columns] = {}, above[strip_columns] = {};  // of this run, and of that before it
    uint64_t asked_below = 0;  // offsets that are worth asking for early, up to the end of an image

    explicit Places(const ImageArray& image) : pixels(static_cast<R*>(image.data)), batch(image.batch) {
      for (int a = 0; a < ND; ++a) stride[a] = image.axis[a];
      for (int k = 0; flat && k < products; ++k) {
        corner[k] = 0;
        for (int a = 0, rest = k; a < ND; ++a, rest /= S) corner[k] += rest % S * stride[a];
      }
    }
    R* image(int64_t n) const { return pixels + n * batch; }

    // Of images that nearer caches do not hold.
    void ask_early(const SampleJob& job) {
      constexpr int64_t worthwhile = 1 << 18;  // bytes
      int64_t last = 0;
      for (int a = 0; a < ND; ++a) last += (job.size[a] - 1) * stride[a];
      if (job.channels > 2 * few<R> && last * int64_t(sizeof(R)) >= worthwhile) asked_below = uint64_t(last);
    }

    void set(const Run<R, ND>& run, int count) {
      for (int i = 0; i < count; ++i) {
        uint64_t offset = 0;  // any bits where taps are not adjacent
        for (int a = 0; a < ND; ++a) offset += uint64_t(run.axis[a].first[i]) * uint64_t(stride[a]);
        above[i] = first[i];
        first[i] = Index(offset);
      }
    }
  };

  // A run, as loops over its pixels want it. `are_neighbours` are those whose taps all are in the image, next to each
  // other.
  template <bool slopes>
  struct Pixels {
    Run<R, ND> run;
    Products<slopes> product;
    alignas(64) Flag are_neighbours[strip_columns];

    void set(int count) {
      for (int i = 0; i < count; ++i) {
        Flag all = !run.cut[i];
        for (int a = 0; a < ND; ++a) all &= run.axis[a].adjacent[i];
        are_neighbours[i] = all;
      }
    }
  };

  // The taps of pixel i, S on each axis.
  struct Adjacent {
    static constexpr bool wide = true, together = false;
    const Run<R, ND>& run;
    const Places& places;
    int i;

    PYSTN_HD int count(int) const { return S; }
    PYSTN_HD Index first() const { return places.first[i]; }
    PYSTN_HD Index offset(int a, int k) const { return k * places.stride[a]; }
    PYSTN_HD R w(int a, int k) const { return run.axis[a].w[k * strip_columns + i]; }
    PYSTN_HD R dw(int a, int k) const { return run.axis[a].dw[k * strip_columns + i]; }
    PYSTN_HD R d2w(int a, int k) const { return run.axis[a].d2w[k * strip_columns + i]; }

    PYSTN_HD int products_count() const { return products; }
    PYSTN_HD Index corner(int k) const { return places.corner[k]; }
    template <class Table>
    PYSTN_HD R product(const Table& table, int k) const {
      return table[k][i];
    }
  };

#if defined(PYSTN_FEW_CHANNELS)
  // The same of some pixels from i on, numbers of each in its lanes, for linear kernels.
  struct Together {
    static constexpr bool together = true;
    const Run<R, ND>& run;
    const Places& places;
    int i;

    PYSTN_HD int count(int) const { return S; }
    PYSTN_HD const Index* first() const { return places.first + i; }
    PYSTN_HD Index offset(int a, int k) const { return k * places.stride[a]; }
    PYSTN_HD auto w(int a, int k) const { return PixelLanes::spread(run.axis[a].w + k * strip_columns + i); }
    PYSTN_HD float dw(int, int k) const { return k ? 1.0f : -1.0f; }
    PYSTN_HD float d2w(int, int) const { return 0.0f; }
  };
#endif

  // Those in the image where not all are.
  struct Listed {
    static constexpr bool wide = false;  // there are few of these
    static constexpr bool together = false;
    const Run<R, ND>& run;
    int i, counts[ND], taps[ND][S];
    Index offsets[ND][S];
    int corners, which[products];
    Index at[products];
    bool none;

    Listed(const Run<R, ND>& run, const Places& places, int i) : run(run), i(i), corners(0) {
      none = run.cut[i];
      for (int a = 0; a < ND; ++a) {
        counts[a] = 0;
        for (int k = 0; k < S; ++k) {
          const Index index = run.axis[a].index_of(i, k);
          if (index < 0) continue;
          taps[a][counts[a]] = k;
          offsets[a][counts[a]++] = index * places.stride[a];
        }
        none = none || counts[a] == 0;
      }
      for (int k = 0; flat && k < products; ++k) {
        Index sum = 0;
        bool inside = true;
        for (int a = 0, rest = k; a < ND; ++a, rest /= S) {
          const Index index = run.axis[a].index_of(i, rest % S);
          inside = inside && index >= 0;
          sum += index * places.stride[a];
        }
        if (!inside) continue;
        which[corners] = k;
        at[corners++] = sum;
      }
    }

    PYSTN_HD int count(int a) const { return counts[a]; }
    PYSTN_HD Index first() const { return 0; }
    PYSTN_HD Index offset(int a, int k) const { return offsets[a][k]; }
    PYSTN_HD R w(int a, int k) const { return run.axis[a].w[taps[a][k] * strip_columns + i]; }
    PYSTN_HD R dw(int a, int k) const { return run.axis[a].dw[taps[a][k] * strip_columns + i]; }
    PYSTN_HD R d2w(int a, int k) const { return run.axis[a].d2w[taps[a][k] * strip_columns + i]; }

    PYSTN_HD int products_count() const { return corners; }
    PYSTN_HD Index corner(int k) const { return at[k]; }
    template <class Table>
    PYSTN_HD R product(const Table& table, int k) const {
      return table[which[k]][i];
    }
  };

  // Calls body(i, taps) for pixels of a run that read anything of an image, every `apart`-th first.
  template <bool slopes, class Body>
  static PYSTN_HD void for_each_read(const Pixels<slopes>& pixels, const Places& places, int begin, int end, int apart,
                                     const Body& body) {
    for (int j = begin; j < begin + apart; ++j)
      for (int i = j; i < end; i += apart) {
        if (pixels.are_neighbours[i])
          body(i, Adjacent{pixels.run, places, i});
        else
          read_listed(pixels.run, places, i, body);
      }
  }
  template <class Body>
  static PYSTN_APART void read_listed(const Run<R, ND>& run, const Places& places, int i, const Body& body) {
    if (run.cut[i]) return;
    const Listed taps(run, places, i);
    if (!taps.none) body(i, taps);
  }

  // The sum over the taps on the first L axes, with derivatives up to `order`.
  template <int order, int L, class Lane, class Taps>
  static PYSTN_HD Jet<typename Lane::V, L> gather(const Lane& lane, const Taps& taps, const R* at) {
    using V = typename Lane::V;
    Jet<V, L> sum;
    [[maybe_unused]] V row[S];
    if constexpr (L == 1 && Taps::together) lane.load(at, taps.first(), row);
    const auto add = [&](int k) __attribute__((always_inline)) {
      Jet<V, L - 1> inner;
      const R* const there = at + taps.offset(L - 1, k);
      if constexpr (L > 1)
        inner = gather<order, L - 1>(lane, taps, there);
      else if constexpr (Taps::together)
        inner.value = row[k];
      else
        inner.value = lane.load(there);
      sum.template add<order>(inner, in_all<V>(taps.w(L - 1, k)), order >= 1 ? in_all<V>(taps.dw(L - 1, k)) : V{},
                              order >= 2 ? in_all<V>(taps.d2w(L - 1, k)) : V{});
    };
    if constexpr (L == 1 || S == 2) {
      for (int k = 0; k < taps.count(L - 1); ++k) add(k);
    } else {
#pragma GCC unroll 1
      for (int k = 0; k < taps.count(L - 1); ++k) add(k);
    }
    return sum;
  }

  // Sum over the taps with one weight each.
  template <class Lane, class Taps, class Table>
  static PYSTN_HD typename Lane::V contract(Lane lane, const Taps& taps, const Table& weight, const R* from) {
    using V = typename Lane::V;
    V sum = in_all<V>(taps.product(weight, 0)) * lane.load(from + taps.corner(0));
    for (int k = 1; k < taps.products_count(); ++k)
      sum += in_all<V>(taps.product(weight, k)) * lane.load(from + taps.corner(k));
    return sum;
  }

  template <class Lane, class Taps, bool slopes>
  static PYSTN_HD typename Lane::V value(Lane lane, const Taps& taps, const Products<slopes>& product, const R* from) {
    if constexpr (flat)
      return contract(lane, taps, product.weight, from);
    else
      return gather<0, ND>(lane, taps, from).value;
  }

  // Adds value * w + sum_a slope_a * w_a to the taps on the first L axes.
  template <bool slopes, int L, class Lane, class Taps, class V>
  static PYSTN_HD void scatter(Lane lane, const Taps& taps, R* to, const V& value, const V* slope) {
    if constexpr (L == 0) {
      lane.store(to, V(lane.load(to) + value));
    } else {
      const auto add = [&](int k) __attribute__((always_inline)) {
        const V w = in_all<V>(taps.w(L - 1, k));
        V inner[ND], next = value * w;
        if (slopes) {
          next += slope[L - 1] * in_all<V>(taps.dw(L - 1, k));
          for (int a = 0; a < L - 1; ++a) inner[a] = slope[a] * w;
        }
        scatter<slopes, L - 1>(lane, taps, to + taps.offset(L - 1, k), next, inner);
      };
      if constexpr (L == 1 || S == 2) {
        for (int k = 0; k < taps.count(L - 1); ++k) add(k);
      } else {
#pragma GCC unroll 1
        for (int k = 0; k < taps.count(L - 1); ++k) add(k);
      }
    }
  }

  // The same without slopes, by the products.
  template <class Lane, class Taps, class V>
  static PYSTN_HD void add_to_taps(Lane lane, const Taps& taps, const Products<false>& product, R* to, const V& g) {
    if constexpr (flat) {
      for (int k = 0; k < taps.products_count(); ++k) {
        R* const at = to + taps.corner(k);
        lane.store(at, V(lane.load(at) + g * in_all<V>(taps.product(product.weight, k))));
      }
    } else {
      scatter<false, ND, Lane, Taps, V>(lane, taps, to, g, nullptr);
    }
  }

  // Asks for the taps of a pixel to come, where they are neighbours: of each row along x up to some lines.
  template <bool slopes>
  static PYSTN_HD void prefetch(const Pixels<slopes>& pixels, const Places& places, int i, int64_t channels,
                                const R* image) {
    constexpr int rows = power(S, ND - 1), lines = 8, ahead = 4;
    if (i + ahead >= pixels.run.placed || channels <= 2 * few<R> || !pixels.are_neighbours[i + ahead]) return;
    const Index bytes = S * places.stride[0] * Index(sizeof(R));
    for (int row = 0; row < rows; ++row) {
      Index at = places.first[i + ahead];
      for (int a = 1, rest = row; a < ND; ++a, rest /= S) at += rest % S * places.stride[a];
      const uintptr_t from = reinterpret_cast<uintptr_t>(image) + uintptr_t(at) * sizeof(R);
      for (Index line = 0; line < bytes && line < lines * line_bytes; line += line_bytes)
        __builtin_prefetch(reinterpret_cast<const char*>(from + uintptr_t(line)));
    }
  }

  // Asks, early, for the first tap of a pixel some rows below, which is as far from here as the row above is: others
  // that the row reads are first taps too. For images that nearer caches do not hold.
  static PYSTN_HD void prefetch_below(const Places& places, int i, int64_t channels, const R* image) {
    constexpr int rows = 4, lines = 16;
    const uint64_t first = uint64_t(places.first[i]), below = first + rows * (first - uint64_t(places.above[i]));
    if (below >= places.asked_below) return;
    const Index bytes = channels * Index(sizeof(R));
    const char* const from = reinterpret_cast<const char*>(image + below);
    for (Index line = 0; line < bytes && line < lines * line_bytes; line += line_bytes)
      __builtin_prefetch(from + line, 0, 2);
  }

  // Asks for what is read some rows later, where channels are few: of every fourth pixel, others in each row.
  static PYSTN_HD void prefetch_few([[maybe_unused]] const SampleJob& job, [[maybe_unused]] const Span& span,
                                    [[maybe_unused]] const Pixels<false>& pixels, [[maybe_unused]] const Places& places,
                                    [[maybe_unused]] int64_t n) {
#if !defined(__AVX512F__)  // as prefetch_ahead
    if constexpr (S == 2 && ND == 2) {
      constexpr int apart = 4;
      constexpr int64_t worthwhile = 1 << 18;  // bytes
      const int r = int(span.row % strip_rows);
      const uint64_t end = uint64_t((job.size[0] - 1) * places.stride[0] + (job.size[1] - 1) * places.stride[1]);
      if (job.channels > 4 || r == 0 || end * sizeof(R) < worthwhile) return;
      const R* const image = places.image(n);
      for (int i = r; i < span.count; i += apart) {
        const uint64_t first = uint64_t(places.first[i]);
        const uint64_t below = first + strip_rows * (first - uint64_t(places.above[i]));
        if (pixels.are_neighbours[i] && below < end) __builtin_prefetch(image + below, 0, 2);
      }
    }
#endif
  }

  // Puts the samples of pixels begin <= i < end of a run at `to`, `column` apart.
  static void sample_run(const Pixels<false>& pixels, const Places& places, const R* image, int64_t channels, int begin,
                         int end, R* to, Index column) {
    for (int i = begin; i < end; ++i)
      for (int64_t c = 0; !pixels.are_neighbours[i] && c < channels; ++c) to[(i - begin) * column + c] = R(0);
    for_each_read(pixels, places, begin, end, 1, [&](int i, const auto& taps) __attribute__((always_inline)) {
      R* const sample = to + (i - begin) * column;
      const R* const from = image + taps.first();
      if (places.asked_below && pixels.are_neighbours[i]) prefetch_below(places, i, channels, image);
      prefetch(pixels, places, i, channels, image);
      across<taps.wide, R>(0, channels, [&](auto lane, int64_t c) __attribute__((always_inline)) {
        lane.store(sample + c, value(lane, taps, pixels.product, from + c));
      });
    });
  }

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    const Index column = column_stride(job, job.output.axis);
    Pixels<false> pixels;
    const Run<R, ND>& run = pixels.run;
    Places places(job.input);
    places.ask_early(job);
    Stream<R, 1, 1, kept> stream(0, 0);
    const int streams = streamed_pixels(job, column), together = streams ? streams : strip_columns;
    General::template for_each_placed<0>(job, n, chunk % chunks_per_image(job), pixels.run, [&](const Span& span) {
      R* const output = samples_of<R>(job, job.output, n, span);
      pixels.set(span.count);
      pixels.product.set(run, span.count);
      places.set(run, span.count);
      for (int begin = 0, end; begin < span.count; begin = end) {
        end = begin + together < span.count ? begin + together : span.count;
        R* const there = output + begin * column;
        R* const here = streams ? stream.begin(there) : there;
        sample_run(pixels, places, places.image(n), job.channels, begin, end, here, column);
        for (int i = begin; job.fill && i < end; ++i) {
          const R filled = run.cut[i] ? R(1) : run.whole[i] ? R(0) : run.outside(job, i, 0).value;
          for (int64_t c = 0; filled != R(0) && c < job.channels; ++c)
            here[(i - begin) * column + c] += filled * R(job.fill[c]);
        }
        if (streams) stream.end(there, 0, 0, 1, 1, (end - begin) * int(job.channels), begin == 0, end == span.count);
      }
    });
    if (streams) end_streams();
  }

  // How many pixels of an output that is streamed are kept on their way, or 0 if it is not.
  static constexpr int kept = 2048 / int(sizeof(R));
  static int streamed_pixels(const SampleJob& job, Index column) {
    if (!job.streams || column != job.channels) return 0;
    for (int pixels = strip_columns; pixels > 0; pixels /= 2)
      if (pixels * job.channels <= kept) return pixels * job.channels * sizeof(R) % line_bytes ? 0 : pixels;
    return 0;
  }

  template <class T = const R>
  static T* samples_of(const SampleJob& job, const SampleArray& samples, int64_t n, const Span& span) {
    return static_cast<T*>(samples.data) + General::place_of(job, samples, n, span, 0);
  }

  static void jvp(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job);
    bool turns = has_steps(job);
    for (int a = 0; a < ND; ++a) turns = turns || job.d_kernel[a];
    const Index column = column_stride(job, job.output.axis);
    Pixels<true> pixels;
    Places places(job.input), tangents(job.d_input);
    General::template for_each_placed<1>(job, n, chunk % chunks_per_image(job), pixels.run, [&](const Span& span) {
      R* const output = samples_of<R>(job, job.output, n, span);
      pixels.run.turn(job, n, span);
      pixels.set(span.count);
      pixels.product.set(pixels.run, span.count);
      for (int i = 0; i < span.count; ++i)
        for (int64_t c = 0; c < job.channels; ++c) output[i * column + c] = R(0);
      if (job.d_input.data) {
        tangents.set(pixels.run, span.count);
        for_each_read(pixels, tangents, 0, span.count, 1, [&](int i, const auto& taps) __attribute__((always_inline)) {
          const R* const from = tangents.image(n) + taps.first();
          R* const to = output + i * column;
          across<taps.wide, R>(0, job.channels, [&](auto lane, int64_t c) __attribute__((always_inline)) {
            lane.store(to + c, value(lane, taps, pixels.product, from + c));
          });
        });
      }
      if (!turns) return;
      places.set(pixels.run, span.count);
      for_each_read(pixels, places, 0, span.count, 1, [&](int i, const auto& taps) __attribute__((always_inline)) {
        const R* const from = places.image(n) + taps.first();
        R* const to = output + i * column;
        across<taps.wide, R>(0, job.channels, [&](auto lane, int64_t c) __attribute__((always_inline)) {
          auto d = lane.load(to + c);
          if constexpr (flat) {
            d += contract(lane, taps, pixels.product.along, from + c);
          } else {
            const auto moved = gather<1, ND>(lane, taps, from + c);
            for (int a = 0; a < ND; ++a) d += moved.slope[a];
          }
          lane.store(to + c, d);
        });
      });
    });
  }

  // Sums over the channels, of the pixels of a run: those of a lane are the same at every width of vectors.
  struct Sums {
    static constexpr int lanes = 4 * few<R>;
    alignas(64) R lane[ND][strip_columns * few<R>];

    void clear(int count) { memset(lane, 0, sizeof lane[0] * (ND - 1) + count * few_bytes); }

    template <class V>
    static PYSTN_HD void add_to(R* at, const V& term) {
      V sum;
      __builtin_memcpy(&sum, at, sizeof sum);
      sum += term;
      __builtin_memcpy(at, &sum, sizeof sum);
    }

    // Of pixel i: terms(lane, c, term) sets those of some channels.
    template <bool wide, class Terms>
    PYSTN_HD void add(int i, int64_t channels, const Terms& terms) {
      if (channels <= few<R>) {
        typename FewLanes<R>::V term[ND];
        terms(FewLanes<R>(channels), 0, term);
        for (int a = 0; a < ND; ++a) add_to(lane[a] + i * few<R>, term[a]);
        return;
      }
      alignas(64) R many[ND][lanes] = {};
      across<wide, R>(0, channels, [&](auto width, int64_t c) __attribute__((always_inline)) {
        typename decltype(width)::V term[ND];
        terms(width, c, term);
        for (int a = 0; a < ND; ++a) add_to(many[a] + c % lanes, term[a]);
      });
      for (int a = 0; a < ND; ++a)
        for (int l = 0; l < few<R>; ++l) {
          const R even = many[a][l] + many[a][l + 2 * few<R>], odd = many[a][l + few<R>] + many[a][l + 3 * few<R>];
          lane[a][i * few<R> + l] += even + odd;
        }
    }

    void total(int count, R (&sum)[ND][strip_columns]) const {
      for (int a = 0; a < ND; ++a)
        for (int i = 0; i < count; ++i) {
          const R* const of = lane[a] + i * few<R>;
          sum[a][i] = few<R> == 4 ? (of[0] + of[2]) + (of[1] + of[few<R> - 1]) : of[0] + of[1];
        }
    }
  };

  // Adds the slopes of an image along a run to the sums; the cotangents are `column` apart.
  static void add_slopes(const Pixels<false>& pixels, const Places& places, const R* image, int64_t channels, int count,
                         const R* cotangents, Index column, Sums& sums) {
#if defined(PYSTN_FEW_CHANNELS)
    if constexpr (is_in_pairs)
      if (pixels.run.linear && PixelLanes::fit(channels, places.stride[0], column))
        return add_slopes_together(pixels, places, image, channels, count, cotangents, column, sums);
#endif
    for_each_read(pixels, places, 0, count, 1, [&](int i, const auto& taps) __attribute__((always_inline)) {
      const R *const from = image + taps.first(), *const g = cotangents + i * column;
      prefetch(pixels, places, i, channels, image);
      sums.template add<taps.wide>(i, channels, [&](auto lane, int64_t c, auto& term) __attribute__((always_inline)) {
        const auto moved = gather<1, ND>(lane, taps, from + c);
        for (int a = 0; a < ND; ++a) term[a] = lane.load(g + c) * moved.slope[a];
      });
    });
  }

#if defined(PYSTN_FEW_CHANNELS)
  // The same for some pixels at a time where all of them have neighbours.
  static void add_slopes_together(const Pixels<false>& pixels, const Places& places, const R* image, int64_t channels,
                                  int count, const R* cotangents, Index column, Sums& sums) {
    constexpr int some = PixelLanes::pixels;
    const PixelLanes lanes(channels, places.stride[0]);
    for (int i = 0; i < count; i += some) {
      if (i + some <= count && all_of(pixels.are_neighbours + i, some)) {
        const auto moved = gather<1, ND>(lanes, Together{pixels.run, places, i}, image);
        const auto g = lanes.cotangents(cotangents + i * column, column);
        for (int a = 0; a < ND; ++a) sums.add_to(sums.lane[a] + i * few<R>, g * moved.slope[a]);
      } else {
        const int end = i + some < count ? i + some : count;
        add_slopes_one_by_one(pixels, places, image, channels, i, end, cotangents, column, sums);
      }
    }
  }
  static PYSTN_APART void add_slopes_one_by_one(const Pixels<false>& pixels, const Places& places, const R* image,
                                                int64_t channels, int begin, int end, const R* cotangents, Index column,
                                                Sums& sums) {
    const FewLanes<R> lane(channels);
    for_each_read(pixels, places, begin, end, 1, [&](int i, const auto& taps) __attribute__((always_inline)) {
      const auto moved = gather<1, ND>(lane, taps, image + taps.first());
      const auto g = lane.load(cotangents + i * column);
      for (int a = 0; a < ND; ++a) sums.add_to(sums.lane[a] + i * few<R>, g * moved.slope[a]);
    });
  }
#endif

  static void vjp_grid(const SampleJob& job, int64_t chunk) {
    const int64_t n0 = chunk / chunks_per_image(job);
    const int64_t n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    const Index column = column_stride(job, job.output.axis);
    Pixels<false> pixels;
    Places places(job.input);
    Sums sums;
    alignas(64) R sum[ND][strip_columns];
    General::template for_each_placed<1>(job, n0, chunk % chunks_per_image(job), pixels.run, [&](const Span& span) {
      pixels.set(span.count);
      places.set(pixels.run, span.count);
      sums.clear(span.count);
      prefetch_few(job, span, pixels, places, n0);
      for (int64_t n = n0; n < n1; ++n)
        add_slopes(pixels, places, places.image(n), job.channels, span.count, samples_of(job, job.output, n, span),
                   column, sums);
      sums.total(span.count, sum);
      put_grad_grid<R, ND>(job, n0, chunk, span, pixels.run, sum);
    });
  }

  // How far apart pixels of a run are that follow each other where they add to the image: neighbours, of few
  // channels, mostly add to the same elements, and each would wait for the one before.
  static int apart(const SampleJob& job) { return job.channels * int64_t(sizeof(R)) <= line_bytes ? 8 : 1; }

  // image += cotangents w, along a run.
  static void add_run(const Pixels<false>& pixels, const Places& places, R* image, int64_t channels, int apart,
                      int count, const R* cotangents, Index column) {
#if defined(PYSTN_FEW_CHANNELS)
    if constexpr (is_in_pairs)
      if (NeighbourLanes::fit(channels, places.stride[0]))
        return add_neighbours(pixels, places, image, channels, apart, count, cotangents, column);
#endif
    for_each_read(pixels, places, 0, count, apart, [&](int i, const auto& taps) __attribute__((always_inline)) {
      const R* const g = cotangents + i * column;
      R* const to = image + taps.first();
      across<taps.wide, R>(0, channels, [&](auto lane, int64_t c) __attribute__((always_inline)) {
        add_to_taps(lane, taps, pixels.product, to + c, lane.load(g + c));
      });
    });
  }

#if defined(PYSTN_FEW_CHANNELS)
  // The same for both taps of a row at a time.
  static void add_neighbours(const Pixels<false>& pixels, const Places& places, R* image, int64_t channels, int apart,
                             int count, const R* cotangents, Index column) {
    const NeighbourLanes lanes(channels);
    const auto& weight = pixels.product.weight;
    Index row[products / 2];
    for (int k = 0; k < products / 2; ++k) row[k] = places.corner[2 * k];
    for (int j = 0; j < apart; ++j)
      for (int i = j; i < count; i += apart) {
        const R* const g = cotangents + i * column;
        if (!pixels.are_neighbours[i]) {
          add_listed(pixels, places, image, channels, i, g);
          continue;
        }
        R* const to = image + places.first[i];
        const auto twice = lanes.twice(g);
        for (int k = 0; k < products / 2; ++k) {
          const auto w = lanes.weights(weight[2 * k][i], weight[2 * k + 1][i]);
          lanes.store(to + row[k], lanes.load(to + row[k]) + twice * w);
        }
      }
  }
  static PYSTN_APART void add_listed(const Pixels<false>& pixels, const Places& places, R* image, int64_t channels,
                                     int i, const R* g) {
    read_listed(pixels.run, places, i, [&](int, const auto& taps) __attribute__((always_inline)) {
      const FewLanes<R> lane(channels);
      add_to_taps(lane, taps, pixels.product, image, lane.load(g));
    });
  }
#endif

  static void vjp_input(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear(job);
    const Index column = column_stride(job, job.output.axis);
    Pixels<false> pixels;
    Places places(job.grad_input);
    R* const image = places.image(part.n0) + part.channel0;
    General::template for_each_of_part<0>(job, part, pixels.run, [&](int64_t n, const Span& span, int64_t) {
      pixels.set(span.count);
      pixels.product.set(pixels.run, span.count);
      places.set(pixels.run, span.count);
      prefetch_few(job, span, pixels, places, part.n0);
      add_run(pixels, places, image, part.channel1 - part.channel0, apart(job), span.count,
              samples_of(job, job.output, n, span) + part.channel0, column);
    });
  }

  // Both gradients in one pass, where a task owns all of an image's and each grid has one image.
  static void vjp(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear(job);
    const Index column = column_stride(job, job.output.axis);
    Pixels<false> pixels;
    Places places(job.input), grad(job.grad_input);
    Sums sums;
    alignas(64) R sum[ND][strip_columns];
    General::template for_each_of_part<1>(job, part, pixels.run, [&](int64_t n, const Span& span, int64_t chunk) {
      const R* const cotangents = samples_of(job, job.output, n, span);
      pixels.set(span.count);
      pixels.product.set(pixels.run, span.count);
      places.set(pixels.run, span.count);
      grad.set(pixels.run, span.count);
      sums.clear(span.count);
      prefetch_few(job, span, pixels, places, n);
      prefetch_few(job, span, pixels, grad, part.n0);
      add_slopes(pixels, places, places.image(n), job.channels, span.count, cotangents, column, sums);
      sums.total(span.count, sum);
      put_grad_grid<R, ND>(job, n, chunk, span, pixels.run, sum);
      add_run(pixels, grad, grad.image(part.n0), job.channels, apart(job), span.count, cotangents, column);
    });
  }

  // Adds step_b V_ab of an image along a run to the sums. In vectors of 16 bytes, as push below: wider ones would take
  // half as long again to compile.
  static void add_curves(const Pixels<false>& pixels, const Places& places, const R* image, int64_t channels, int count,
                         const R* cotangents, Index column, const R (*step)[strip_columns], Sums& sums) {
    for_each_read(pixels, places, 0, count, 1, [&](int i, const auto& taps) __attribute__((always_inline)) {
      const R *const from = image + taps.first(), *const g = cotangents + i * column;
      sums.template add<false>(i, channels, [&](auto lane, int64_t c, auto& term) __attribute__((always_inline)) {
        using V = typename decltype(lane)::V;
        const auto curved = gather<2, ND>(lane, taps, from + c);
        for (int a = 0; a < ND; ++a) {
          V slope{};
          for (int b = 0; b < ND; ++b) slope += in_all<V>(step[b][i]) * curved.curve[a][b];
          term[a] = lane.load(g + c) * slope;
        }
      });
    });
  }

  // grad_grid_a = sum_c output_c (V_a(Z_c) + sum_b d_grid_b V_ab(U_c))
  static void vjp2_grid(const SampleJob& job, int64_t chunk) {
    const int64_t n0 = chunk / chunks_per_image(job);
    const int64_t n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    const Index column = column_stride(job, job.output.axis);
    Pixels<false> pixels;
    Places places(job.input), tangents(job.d_input);
    Sums sums;
    alignas(64) R step[ND][strip_columns], sum[ND][strip_columns];
    General::template for_each_placed<2>(job, n0, chunk % chunks_per_image(job), pixels.run, [&](const Span& span) {
      pixels.set(span.count);
      sums.clear(span.count);
      if (job.d_input.data) tangents.set(pixels.run, span.count);
      if (job.d_grid.data) {
        places.set(pixels.run, span.count);
        pixels.run.steps(job, n0, span, step);
      }
      for (int64_t n = n0; n < n1; ++n) {
        const R* const cotangents = samples_of(job, job.output, n, span);
        if (job.d_input.data)
          add_slopes(pixels, tangents, tangents.image(n), job.channels, span.count, cotangents, column, sums);
        if (job.d_grid.data)
          add_curves(pixels, places, places.image(n), job.channels, span.count, cotangents, column, step, sums);
      }
      sums.total(span.count, sum);
      put_grad_grid<R, ND>(job, n0, chunk, span, pixels.run, sum);
    });
  }

  // grad_input += output w + sum_a values d_grid_a w_a
  static void push(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear(job);
    const bool moves = job.values.data && job.d_grid.data;
    const Index column = column_stride(job, job.output.axis), values_column = column_stride(job, job.values.axis);
    Pixels<false> pixels;
    Places places(job.grad_input);
    R* const image = places.image(part.n0) + part.channel0;
    alignas(64) R step[ND][strip_columns];
    General::template for_each_of_part<1>(job, part, pixels.run, [&](int64_t n, const Span& span, int64_t) {
      pixels.set(span.count);
      places.set(pixels.run, span.count);
      if (moves) pixels.run.steps(job, n, span, step);
      const R* const output = job.output.data ? samples_of(job, job.output, n, span) + part.channel0 : nullptr;
      const R* const values = moves ? samples_of(job, job.values, n, span) + part.channel0 : nullptr;
      const int64_t channels = part.channel1 - part.channel0;
      for_each_read(pixels, places, 0, span.count, apart(job),
                    [&](int i, const auto& taps) __attribute__((always_inline)) {
                      R* const to = image + taps.first();
                      across<false, R>(0, channels, [&](auto lane, int64_t c) __attribute__((always_inline)) {
                        using V = typename decltype(lane)::V;
                        const V value = output ? lane.load(output + i * column + c) : V{};
                        const V moved = values ? lane.load(values + i * values_column + c) : V{};
                        V slope[ND];
                        for (int a = 0; a < ND; ++a)
                          slope[a] = values && step[a][i] != R(0) ? V(moved * in_all<V>(step[a][i])) : V{};
                        scatter<true, ND>(lane, taps, to + c, value, slope);
                      });
                    });
    });
  }
};

// Whether channels in lanes can do what a job asks for.
inline bool fits_channels(Direction direction, const SampleJob& job) {
  if (job.channels < 2 || job.components != 1 || job.mask.data || job.projected || job.chosen.data) return false;
  if (job.gradient.data || (direction == Direction::forward && job.output_batch != job.batch)) return false;
  const bool values = direction == Direction::forward || direction == Direction::vjp_input;
  if (!values && (job.fill || job.d_fill)) return false;
  const ImageArray* const images[] = {&job.input, &job.d_input, &job.grad_input};
  for (const ImageArray* image : images)
    if (image->data && image->channel != 1) return false;
  const SampleArray* const samples[] = {&job.output, &job.values};
  for (const SampleArray* array : samples)
    if (array->data && array->channel != 1) return false;
  return true;
}

}  // namespace pystn::PYSTN_LEVEL
#endif
