// Linear and nearest sampling of float32 images in tiles of 16 output pixels, one a lane (AVX-512).
//
// Pixels that are neighbours in the output mostly read neighbours of the source: if a tile's cells
// fit into a window of 8 x 8 source pixels, eight row loads bring all of it into registers and every
// tap is a permutation of them: eight loads and eight permutations a channel bound the time, and
// no gathers, whose cost differs much between processors. A tile that does not fit gathers pairs of
// neighbours. The gradient to the input adds up in a private window first, for the same reason.
//
// The maths is that of core/, written once: loops of 16 over its functions, which compilers turn
// into vector instructions. What is here is only where pixels come from and go to.
#pragma once

#if defined(__GNUC__) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define PYSTN_TILES 1

#include "parts.hpp"
#include "reach.hpp"
#include "stream.hpp"
#include "tile_lattice.hpp"
#include "window_sums.hpp"

namespace pystn::PYSTN_LEVEL {

// Whether the tiles can do what a job asks for.
inline bool fits_tiles(Direction direction, const SampleJob& job, const ImageArray& image) {
  const bool is_linear = Mode(job.kernel[0].mode) == Mode::linear;
  if (job.ndim != 2 || image.type != Element::f32 || job.output.type != Element::f32) return false;
  if (job.components != 1 || (has_wide_positions(job) && !is_linear)) return false;
  if (job.kernel[0].mode != job.kernel[1].mode || job.kernel[0].variant != job.kernel[1].variant) return false;
  if (job.projected || job.chosen.data) return false;
  if (job.fill && !(is_linear && direction == Direction::forward)) return false;
  if (job.mask.data || Cutoff(job.cutoff) != Cutoff::none || job.output_batch != job.batch) return false;
  if (job.size[0] < window || job.size[1] < window || job.size[0] > 1 << 24 || job.size[1] > 1 << 24) return false;
  const int64_t rows = image.axis[1] < 0 ? -image.axis[1] : image.axis[1];
  return image.axis[0] == 1 && rows * job.size[1] + job.size[0] < int64_t(1) << 31 &&
         job.output.axis[job.rank - 1] == 1;
}

template <template <class> class KernelBy, template <class> class Fold, int TR, int TC>
struct TiledSampler {
  using Place = Tile<TR, TC>;
  using Kernel = KernelBy<float>;

  template <class P = float>
  static KernelBy<P> kernel_for(const SampleJob& job) {
    if constexpr (Kernel::taps == 1)
      return {job.kernel[0].variant != 0};
    else
      return {};
  }

  // The lanes in a tile's corners, of the first and of the second of two vectors.
  static PYSTN_INLINE __m512i corners() {
    return _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 31, 32 - TC, 15 + TC, 16, 15, 16 - TC, TC - 1, 0);
  }

  // Element offsets of a tile in the output and in the grid's gradient; and, if its coordinates are
  // made from a matrix, these and the target's.
  struct At {
    int64_t output, grad_grid;
    const float *x, *y, *target;
  };
  using Lattice = TileLattice<TR, TC>;
  using Sums = MatrixSums<TR, TC>;

  // A batch of square tiles is a strip.
  static_assert(TR == 1 || (TR == strip_rows && batch_tiles * TC == strip_columns));

  static constexpr int batch_columns = batch_tiles * TC;

  // Tiles next to each other, prepared together.
  struct Batch {
    const Span& line;
    const At& at_line;
    int64_t grad_column;
    int start, tiles;  // its first column in the line; how many tiles
    alignas(64) float grid_x[batch_tiles * lanes], grid_y[batch_tiles * lanes], target[batch_columns];
    BatchAxis x, y;
    TileTaps taps[batch_tiles];

    PYSTN_INLINE Batch(const Span& line, const At& at_line, int64_t grad_column, int start)
        : line(line), at_line(at_line), grad_column(grad_column), start(start) {
      const int left = line.count - start;
      tiles = left < batch_columns ? (left + TC - 1) / TC : batch_tiles;
    }
    PYSTN_INLINE Place tile(int t) const {
      const int left = line.count - start - t * TC;
      return Place(line.rows, left < TC ? left : TC);
    }
    PYSTN_INLINE At at(int t) const {
      return {at_line.output + start + t * TC, at_line.grad_grid + (start + t * TC) * grad_column, grid_x + t * lanes,
              grid_y + t * lanes, target + t * TC};
    }
    PYSTN_INLINE int columns() const { return line.count - start < batch_columns ? line.count - start : batch_columns; }
  };

  // The coordinates of a batch, of a line of the grid or its lattice.
  static PYSTN_INLINE void load_coordinates(const SampleJob& job, const Lattice& lattice, const float* line,
                                            Batch& batch) {
    if (!is_stored(job))
      return lattice.make(job, batch.line, batch.start, batch.tiles, batch.target, batch.grid_x, batch.grid_y);
    const int64_t column = column_stride(job, job.grid.axis);
    for (int t = 0; t < batch.tiles; ++t)
      batch.tile(t).load_grid(job, line + (batch.start + t * TC) * column, batch.grid_x + t * lanes,
                              batch.grid_y + t * lanes);
  }

  // Projects a batch by positions of float64. Coordinates made from a matrix are kept in float32 for its gradient.
  template <bool with_factor>
  static PYSTN_APART void project_wide(const SampleJob& job, int64_t n, Batch& batch) {
    const Span& line = batch.line;
    constexpr int columns = strip_columns, tiles = columns / TC;
    for (int first = 0; first < batch.tiles; first += tiles) {
      const int start = batch.start + first * TC, left = line.count - start;
      const int count = left < columns ? left : columns, some = (count + TC - 1) / TC;
      alignas(64) double by_rows[2][TR * columns], x[2][tiles * lanes];
      load_strip(job, n, Span{line.outer, line.row, line.column + start, line.rows, count}, some * TC, by_rows);
      for (int a = 0; a < 2; ++a)
        for (int t = 0; t < some; ++t)
          for (int r = 0; r < TR; ++r) {
            const int row = r < line.rows ? r : line.rows - 1;  // rows that do not exist repeat the last
            for (int c = 0; c < TC; ++c) x[a][t * lanes + r * TC + c] = by_rows[a][(row * some + t) * TC + c];
          }
      batch.x.template project<with_factor>(x[0], first, some, Projection<double, Fold>(job, 0),
                                            kernel_for<double>(job));
      batch.y.template project<with_factor>(x[1], first, some, Projection<double, Fold>(job, 1),
                                            kernel_for<double>(job));
      if (is_stored(job)) continue;
      target_columns(job, line.column + start, count, batch.target + first * TC);
      for (int i = count; i < some * TC; ++i) batch.target[first * TC + i] = batch.target[first * TC + count - 1];
    }
  }

  // Asks for the coordinates of the batch after the next one of a line, or of the line below: rows of a large grid are
  // further apart than what processors foresee.
  static PYSTN_INLINE void prefetch_grid(const SampleJob& job, const float* line, int start, int count) {
    const int64_t row = row_stride(job, job.grid.axis), column = column_stride(job, job.grid.axis);
    if (TR == 1 || column < 1 || column > 2) return;
    const int64_t ahead = start + 2 * batch_columns;
    const int64_t offset = ahead < count ? ahead * column : TR * row + (ahead - count) * column;
    for (int r = 0; r < TR; ++r)
      for (int64_t i = 0; i < batch_columns * column; i += line_bytes / int64_t(sizeof(float))) {
        const uintptr_t at = reinterpret_cast<uintptr_t>(line) + uintptr_t(offset + r * row + i) * sizeof(float);
        __builtin_prefetch(reinterpret_cast<const char*>(at), 0, 2);
      }
  }

  // Calls body(batch) for the tiles of one chunk, in order; for those that may meet `part` if it is given.
  // `sums` are told of every line.
  template <bool with_factor, bool windows, class Body>
  static PYSTN_INLINE void for_each_batch(const SampleJob& job, int64_t n, int64_t chunk, int64_t image_row,
                                          const Part* part, Sums* sums, Body&& body) {
    const Reach* reach = part && job.reach && TR > 1 ? reaches_of(job, n, chunk) : nullptr;
    const Projection<float, Fold> project_x(job, 0), project_y(job, 1);
    const Kernel kernel = kernel_for(job);
    const bool wide = has_wide_positions(job);
    const float* const grid = static_cast<const float*>(job.grid.data);  // unless they are wide
    for_each_block(job, chunk, TR, 1 << 30, [&](const Span& line) PYSTN_INLINED {
      const float* const from = wide ? nullptr : grid + n * job.grid.batch + offset_of(job, job.grid.axis, line);
      const At at_line{offset_of(job, job.output.axis, line), offset_of(job, job.grad_grid.axis, line)};
      const Lattice lattice(job, n, line);
      if (sums && !is_stored(job)) sums->begin(lattice);
      for (int start = 0; start < line.count; start += batch_columns) {
        if (reach && !part->meets(*reach++)) continue;
        Batch batch(line, at_line, column_stride(job, job.grad_grid.axis), start);
        if (wide) {
          project_wide<with_factor>(job, n, batch);
        } else {
          if (is_stored(job)) prefetch_grid(job, from, start, line.count);
          load_coordinates(job, lattice, from, batch);
          batch.x.template project<with_factor>(batch.grid_x, 0, batch.tiles, project_x, kernel);
          batch.y.template project<with_factor>(batch.grid_y, 0, batch.tiles, project_y, kernel);
        }
        for (int t = 0; t < batch.tiles; ++t) {
          const TileAxis x(batch.x, t), y(batch.y, t);
          if (Kernel::taps == 1)
            batch.taps[t].place_first(x, y, job.size[0], job.size[1], image_row);
          else
            batch.taps[t].template place<windows>(x, y, job.size[0], job.size[1], image_row, corners());
        }
        body(batch);
      }
      if (sums && !is_stored(job)) sums->end();
    });
  }

  // Calls body(constant of the way of reading).
  template <class Body>
  static PYSTN_INLINE void by_reading(Reading reading, Body&& body) {
    switch (reading) {
      case Reading::nothing:
        break;
      case Reading::window_inside:
        body(Way<Reading::window_inside>{});
        break;
      case Reading::window:
        body(Way<Reading::window>{});
        break;
      case Reading::pairs_inside:
        body(Way<Reading::pairs_inside>{});
        break;
      case Reading::pairs:
        body(Way<Reading::pairs>{});
        break;
    }
  }
  template <Reading how>
  struct Way {
    static constexpr Reading value = how;
  };

  // How far from each other the pixels of a tile read: within a window, in the neighbourhood still, or anywhere.
  enum class Spread { near, sparse, scattered };

  // Whether the cells of a tile span little of an axis, and few pages of memory therefore.
  static bool is_local(const TileAxis& axis, int64_t size) {
    constexpr int most = 256;
    int low = axis.cell[0], high = low;
    for (int l = 1; l < lanes; ++l) {
      low = axis.cell[l] < low ? axis.cell[l] : low;
      high = axis.cell[l] > high ? axis.cell[l] : high;
    }
    const int64_t span = int64_t(high) - low;
    return span <= most && span <= size / 4;
  }

  // That of a chunk's first tile: most of its others have the same then.
  static Spread spread_of(const SampleJob& job, int64_t n, int64_t chunk) {
    bool first = true;
    Spread spread = Spread::near;
    for_each_block(job, chunk, TR, 1 << 30, [&](const Span& line) {
      if (!first) return;
      first = false;
      const Span corner{line.outer, line.row, line.column, line.rows, line.count < TC ? line.count : TC};
      const At nowhere{};
      Batch batch(corner, nowhere, 0, 0);
      if (has_wide_positions(job)) {
        project_wide<false>(job, n, batch);
      } else {
        const float* const grid = static_cast<const float*>(job.grid.data) + n * job.grid.batch;
        load_coordinates(job, Lattice(job, n, corner), grid + offset_of(job, job.grid.axis, corner), batch);
        batch.x.template project<false>(batch.grid_x, 0, 1, Projection<float, Fold>(job, 0), kernel_for(job));
        batch.y.template project<false>(batch.grid_y, 0, 1, Projection<float, Fold>(job, 1), kernel_for(job));
      }
      TileTaps taps;
      const TileAxis axis_x(batch.x, 0), axis_y(batch.y, 0);
      taps.template place<true>(axis_x, axis_y, job.size[0], job.size[1], job.input.axis[1], corners());
      if (taps.reading == Reading::nothing || taps.near) return;
      const bool local = is_local(axis_x, job.size[0]) && is_local(axis_y, job.size[1]);
      spread = local ? Spread::sparse : Spread::scattered;
    });
    return spread;
  }

  // Tiles of one row, which are stored as they are, for what has no windows; what they read is pairs, which few of
  // their windows would hold.
  using OfOneRow = TiledSampler<KernelBy, Fold, 1, lanes>;

  static void forward(const SampleJob& job, int64_t chunk) {
    const int64_t n = chunk / chunks_per_image(job), of_image = chunk % chunks_per_image(job);
    // Scattered samples of an image beyond the reach of the processor's address translation miss it at every tap; one
    // channel alone is within reach.
    const bool far = job.channels > 1 && job.channels * job.size[0] * job.size[1] >= int64_t(4) << 20;
    const Spread spread = far || job.columns >= batch_columns ? spread_of(job, n, of_image) : Spread::near;
    const bool misses = far && spread == Spread::scattered;
    if constexpr (TR > 1 && Kernel::taps > 1)
      if (spread != Spread::near && !misses) return OfOneRow::forward(job, chunk);
    // Of many channels the taps would be placed too often.
    const bool streams = job.streams && job.channels <= 2 * streamed;
    int64_t together = streams ? streamed : job.channels;
    if (misses) together = 1;
    for (int64_t c = 0; c < job.channels; c += together) {
      const int64_t end = c + together < job.channels ? c + together : job.channels;
      if constexpr (Kernel::taps == 1)
        if (!streams && is_stored(job) && Place::has_pairs(job)) {
          sample_nearest(job, n, of_image, c, end);
          continue;
        }
      streams ? sample_channels<true>(job, n, of_image, c, end) : sample_channels<false>(job, n, of_image, c, end);
    }
    if (streams) end_streams();
  }

  // Asks for the windows of the tiles to come, of every other one, which overlap, as far from this one as its own is
  // from those before.
  struct Prefetch {
    // For images that nearer caches do not hold, and few channels: windows of many would push each other out.
    static constexpr int64_t pairs_ahead = 3, worthwhile = 1 << 16, most_channels = 8;
    bool wanted;
    int64_t row, channel, before = 0;

    PYSTN_INLINE Prefetch(const SampleJob& job, const ImageArray& image, int64_t channels)
        : wanted(channels <= most_channels && job.channels * job.size[0] * job.size[1] >= worthwhile),
          row(image.axis[1]),
          channel(image.channel) {}

    // Into the second cache: the first has few places for rows a power of two apart.
    PYSTN_INLINE void operator()(const float* first, int64_t channels, const TileTaps& taps, int t) {
      if (!wanted || t % 2 || !taps.near) return;
      const int64_t ahead = taps.corner + pairs_ahead * (taps.corner - before);
      before = taps.corner;
      for (int64_t c = 0; c < channels; ++c) {
        const uintptr_t at = reinterpret_cast<uintptr_t>(first) + uintptr_t(ahead + c * channel) * sizeof(float);
        for (int r = 0; r < window; ++r)
          __builtin_prefetch(reinterpret_cast<const char*>(at + uintptr_t(r * row) * sizeof(float)), 0, 2);
      }
    }

    // Asks for the samples of the batch to come, a line of a row with each tile.
    PYSTN_INLINE void samples(const SampleJob& job, const float* first, int t, int64_t row_of_samples) const {
      if (!wanted || TR == 1) return;
      for (int64_t c = 0; c < job.channels; ++c) {
        const uintptr_t at =
            reinterpret_cast<uintptr_t>(first) +
            uintptr_t(c * job.output.channel + t % TR * row_of_samples + batch_columns) * sizeof(float);
        __builtin_prefetch(reinterpret_cast<const char*>(at));
      }
    }
  };

  // Nearest, from a grid of pairs: so little is to be done that tiles are not prepared in batches, but each goes from
  // its coordinates to its samples in registers. They are of one row, which is loaded and stored as it is, and square
  // where columns are left.
  static void sample_nearest(const SampleJob& job, int64_t n, int64_t chunk, int64_t channel0, int64_t channel1) {
    const Projection<float, Fold> project_x(job, 0), project_y(job, 1);
    const int64_t width = job.size[0], height = job.size[1], image_row = job.input.axis[1];
    const int64_t grid_row = row_stride(job, job.grid.axis), output_row = row_stride(job, job.output.axis);
    const int64_t input_channel = job.input.channel, output_channel = job.output.channel;
    const int64_t channels = channel1 - channel0;
    const float* const grid = static_cast<const float*>(job.grid.data) + n * job.grid.batch;
    const float* const input =
        static_cast<const float*>(job.input.data) + n * job.input.batch + channel0 * input_channel;
    float* const output = static_cast<float*>(job.output.data) + n * job.output.batch + channel0 * output_channel;
    const auto sample = [&](auto tile, const float* from, float* to) PYSTN_INLINED {
      alignas(64) float at_x[lanes], at_y[lanes];
      tile.load_pairs(from, grid_row, at_x, at_y);
      BatchAxis x, y;
      x.template project<false>(at_x, 0, 1, project_x, kernel_for(job));
      y.template project<false>(at_y, 0, 1, project_y, kernel_for(job));
      TileTaps taps;
      taps.place_first(TileAxis(x, 0), TileAxis(y, 0), width, height, image_row);
      const bool any = taps.reading != Reading::nothing;
      for (int64_t c = 0; c < channels; ++c)
        tile.store(to + c * output_channel, output_row,
                   any ? taps.read_first(input + c * input_channel) : _mm512_setzero_ps());
    };
    for_each_block(job, chunk, TR, 1 << 30, [&](const Span& line) PYSTN_INLINED {
      const float* const from = grid + offset_of(job, job.grid.axis, line);
      float* const to = output + offset_of(job, job.output.axis, line);
      const int of_rows = line.count / lanes * lanes;
      for (int r = 0; r < line.rows; ++r)
        for (int i = 0; i < of_rows; i += lanes)
          sample(Tile<1, lanes>(1, lanes), from + r * grid_row + 2 * i, to + r * output_row + i);
      for (int i = of_rows; i < line.count; i += TC)
        sample(Place(line.rows, line.count - i < TC ? line.count - i : TC), from + 2 * i, to + i);
    });
  }

  // The share of each lane's weight on taps outside, as core's share_outside has it: that of all taps less that of
  // those inside, and of samples that read nothing exactly 1.
  static PYSTN_INLINE __m512 share_outside(const TileTaps& taps, const TileAxis& x, const TileAxis& y) {
    const auto sums = [](const TileAxis& axis, __mmask16 in0, __mmask16 in1, __m512& inside) PYSTN_INLINED {
      const __m512 w0 = _mm512_load_ps(axis.weight[0]), w1 = _mm512_load_ps(axis.weight[1]);
      inside = _mm512_add_ps(_mm512_maskz_mov_ps(in0, w0), _mm512_maskz_mov_ps(in1, w1));
      return _mm512_add_ps(w0, w1);
    };
    __m512 in_x, in_y;
    const __m512 all_x = sums(x, taps.inside0 | taps.inside2, taps.inside1 | taps.inside3, in_x);
    const __m512 all_y = sums(y, taps.inside0 | taps.inside1, taps.inside2 | taps.inside3, in_y);
    const __mmask16 any = taps.inside0 | taps.inside1 | taps.inside2 | taps.inside3;
    const __m512 share = _mm512_sub_ps(_mm512_mul_ps(all_x, all_y), _mm512_mul_ps(in_x, in_y));
    return _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), any, share);
  }

  template <bool streams>
  static void sample_channels(const SampleJob& job, int64_t n, int64_t chunk, int64_t channel0, int64_t channel1) {
    const int64_t image_row = job.input.axis[1], channels = channel1 - channel0;
    const float* const input =
        static_cast<const float*>(job.input.data) + n * job.input.batch + channel0 * job.input.channel;
    float* const output = static_cast<float*>(job.output.data) + n * job.output.batch + channel0 * job.output.channel;
    const int64_t output_row = row_stride(job, job.output.axis), output_channel = job.output.channel;
    const double* const fill = job.fill ? job.fill + channel0 : nullptr;
    Stream<float, streams ? streamed : 1, streams ? TR : 1, streams ? batch_columns : lanes> stream(output_row,
                                                                                                    output_channel);
    const int64_t row = streams ? stream.row : output_row, channel = streams ? stream.channel : output_channel;
    Prefetch prefetch(job, job.input, channels);
    for_each_batch<false, (TR > 1)>(job, n, chunk, image_row, nullptr, nullptr, [&](const Batch& batch) PYSTN_INLINED {
      float* const there = output + batch.at(0).output;
      float* const here = streams ? stream.begin(there) : there;
      for (int t = 0; t < batch.tiles; ++t) {
        const TileTaps& taps = batch.taps[t];
        const Place tile = batch.tile(t);
        float* const out = here + t * TC;
        prefetch(input, channels, taps, t);
        if (taps.reading == Reading::nothing) {
          for (int64_t c = 0; c < channels; ++c)
            tile.store(out + c * channel, row, _mm512_set1_ps(fill ? float(fill[c]) : 0.0f));
          continue;
        }
        if (Kernel::taps == 1) {
          for (int64_t c = 0; c < channels; ++c)
            tile.store(out + c * channel, row, taps.read_first(input + c * job.input.channel));
          continue;
        }
        by_reading(taps.reading, [&](auto way) PYSTN_INLINED {
          const TapReader<decltype(way)::value> read(taps, image_row);
          constexpr bool may_fill = decltype(way)::value == Reading::window || decltype(way)::value == Reading::pairs;
          const TapWeights weight(TileAxis(batch.x, t), TileAxis(batch.y, t));
          const __m512 outside =
              may_fill && fill ? share_outside(taps, TileAxis(batch.x, t), TileAxis(batch.y, t)) : _mm512_setzero_ps();
          for (int64_t c = 0; c < channels; ++c) {
            __m512 tap[4];
            read(input + c * job.input.channel, tap);
            __m512 sum = _mm512_mul_ps(weight.of[0], tap[0]);
            sum = _mm512_add_ps(sum, _mm512_mul_ps(weight.of[1], tap[1]));
            sum = _mm512_add_ps(sum, _mm512_mul_ps(weight.of[2], tap[2]));
            sum = _mm512_add_ps(sum, _mm512_mul_ps(weight.of[3], tap[3]));
            if (may_fill && fill) sum = _mm512_add_ps(sum, _mm512_mul_ps(outside, _mm512_set1_ps(float(fill[c]))));
            tile.store(out + c * channel, row, sum);
          }
        });
      }
      if (streams)
        stream.end(there, output_row, output_channel, int(channels), batch.line.rows, batch.columns(), batch.start == 0,
                   batch.start + batch_columns >= batch.line.count);
    });
  }

  // Where the gradient of a batch goes: to the grid's, or to a stream on its way there; of float32.
  struct GridTarget {
    Stream<float, 1, TR, 2 * batch_columns> stream;
    float* const grid;
    const int64_t row, column;
    const bool streams;
    float *there, *here;

    PYSTN_INLINE GridTarget(const SampleJob& job, int64_t n)
        : stream(row_stride(job, job.grad_grid.axis), 0),
          grid(has_wide_positions(job) ? nullptr : static_cast<float*>(job.grad_grid.data) + n * job.grad_grid.batch),
          row(row_stride(job, job.grad_grid.axis)),
          column(column_stride(job, job.grad_grid.axis)),
          streams(job.streams && is_stored(job) && grid && column == 2 && job.grad_grid.component == 1) {}
    PYSTN_INLINE void begin(const Batch& batch) {
      if (!grid) return;
      there = grid + batch.at(0).grad_grid;
      here = streams ? stream.begin(there) : there;
    }
    PYSTN_INLINE float* at(int t) const { return here + t * TC * column; }
    PYSTN_INLINE int64_t stride() const { return streams ? stream.row : row; }
    PYSTN_INLINE void end(const Batch& batch) {
      if (streams)
        stream.end(there, row, 0, 1, batch.line.rows, 2 * batch.columns(), batch.start == 0,
                   batch.start + batch_columns >= batch.line.count);
    }
  };

  // The gradient to the coordinates of tile t, summed over the samples n0 <= n < n1: into the grid's, or added to the
  // sums for a matrix.
  static PYSTN_INLINE void put_grad_grid(const SampleJob& job, int64_t n0, int64_t n1, const TileTaps& taps,
                                         const TileAxis& x, const TileAxis& y, const Place& tile, const At& at,
                                         const GridTarget& target, int t, Sums& sums) {
    const int64_t image_row = job.input.axis[1], row = row_stride(job, job.output.axis);
    const __m512 wx0 = _mm512_load_ps(x.weight[0]), wx1 = _mm512_load_ps(x.weight[1]);
    const __m512 wy0 = _mm512_load_ps(y.weight[0]), wy1 = _mm512_load_ps(y.weight[1]);
    __m512 sx = _mm512_setzero_ps(), sy = _mm512_setzero_ps();
    by_reading(taps.reading, [&](auto way) PYSTN_INLINED {
      const TapReader<decltype(way)::value> read(taps, image_row);
      for (int64_t n = n0; n < n1; ++n) {
        const float* const input = static_cast<const float*>(job.input.data) + n * job.input.batch;
        const float* const cotangent = static_cast<const float*>(job.output.data) + n * job.output.batch + at.output;
        for (int64_t c = 0; c < job.channels; ++c) {
          __m512 tap[4];
          read(input + c * job.input.channel, tap);
          const __m512 g = tile.load(cotangent + c * job.output.channel, row);
          const __m512 dx = _mm512_add_ps(_mm512_mul_ps(wy0, _mm512_sub_ps(tap[1], tap[0])),
                                          _mm512_mul_ps(wy1, _mm512_sub_ps(tap[3], tap[2])));
          const __m512 dy = _mm512_add_ps(_mm512_mul_ps(wx0, _mm512_sub_ps(tap[2], tap[0])),
                                          _mm512_mul_ps(wx1, _mm512_sub_ps(tap[3], tap[1])));
          sx = _mm512_add_ps(sx, _mm512_mul_ps(g, dx));
          sy = _mm512_add_ps(sy, _mm512_mul_ps(g, dy));
        }
      }
    });
    // A factor of 0 is a flat place, whatever the pixels are; a sample outside has no slope, whatever
    // its cotangent.
    const __m512 fx = _mm512_load_ps(x.factor), fy = _mm512_load_ps(y.factor), zero = _mm512_setzero_ps();
    const __mmask16 seen = taps.inside0 | taps.inside1 | taps.inside2 | taps.inside3;
    const __m512 gx = _mm512_maskz_mul_ps(_mm512_mask_cmp_ps_mask(seen, fx, zero, _CMP_NEQ_UQ), sx, fx);
    const __m512 gy = _mm512_maskz_mul_ps(_mm512_mask_cmp_ps_mask(seen, fy, zero, _CMP_NEQ_UQ), sy, fy);
    if (!is_stored(job))
      sums.add(job, _mm512_maskz_mov_ps(tile.exist(), gx), _mm512_maskz_mov_ps(tile.exist(), gy), at.x, at.y,
               at.target);
    else if (has_wide_positions(job))
      tile.store_grid(job, static_cast<double*>(job.grad_grid.data) + n0 * job.grad_grid.batch + at.grad_grid,
                      row_stride(job, job.grad_grid.axis), gx, gy);
    else
      tile.store_grid(job, target.at(t), target.stride(), gx, gy);
  }

  static void vjp_grid(const SampleJob& job, int64_t chunk) {
    if constexpr (TR > 1)
      if (is_stored(job) && job.columns >= batch_columns &&
          spread_of(job, chunk / chunks_per_image(job), chunk % chunks_per_image(job)) != Spread::near)
        return OfOneRow::vjp_grid(job, chunk);
    const int64_t n0 = chunk / chunks_per_image(job), n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    const float* const input = static_cast<const float*>(job.input.data) + n0 * job.input.batch;
    const float* const cotangent = static_cast<const float*>(job.output.data) + n0 * job.output.batch;
    const int64_t row = row_stride(job, job.output.axis);
    Sums sums;
    GridTarget target(job, n0);
    Prefetch prefetch(job, job.input, job.channels);
    for_each_batch<true, (TR > 1)>(job, n0, chunk % chunks_per_image(job), job.input.axis[1], nullptr, &sums,
                                   [&](const Batch& batch) PYSTN_INLINED {
                                     target.begin(batch);
                                     for (int t = 0; t < batch.tiles; ++t) {
                                       const At at = batch.at(t);
                                       prefetch(input, job.channels, batch.taps[t], t);
                                       prefetch.samples(job, cotangent + at.output, t, row);
                                       put_grad_grid(job, n0, n1, batch.taps[t], TileAxis(batch.x, t),
                                                     TileAxis(batch.y, t), batch.tile(t), at, target, t, sums);
                                     }
                                     target.end(batch);
                                   });
    if (!is_stored(job)) sums.add_to_matrix(job, chunk);
    if (job.streams) end_streams();
  }

  // Adds the terms of one tile to the part of the input's gradient that a task owns.
  static PYSTN_INLINE void add_grad_input(const SampleJob& job, const Part& part, int64_t n, WindowMatrix& matrix,
                                          WindowSums& sums, const TileTaps& taps, const TileAxis& x, const TileAxis& y,
                                          const Place& tile, const At& at) {
    if (taps.reading == Reading::nothing) return;
    const int64_t image_row = job.grad_input.axis[1], row = row_stride(job, job.output.axis);
    float* const image = static_cast<float*>(job.grad_input.data) + part.n0 * job.grad_input.batch;
    const float* const cotangent = static_cast<const float*>(job.output.data) + n * job.output.batch + at.output;
    if (Kernel::taps == 1) return add_first_taps(job, part, taps, x, y, tile, cotangent, row, image);
    if (taps.reading == Reading::pairs || taps.reading == Reading::pairs_inside)
      return add_taps(job, part, taps, x, y, tile, cotangent, row, image);
    const int used = matrix.rows_of(taps, y);
    const int first = part.low > taps.top ? int(part.low - taps.top) : 0;
    const int last = part.high < taps.top + used ? int(part.high - taps.top) : used;
    if (first >= last) return;
    const bool few = job.channels <= 2;  // not the part's, which may depend on the threads
    if (taps.reading == Reading::window_inside)
      few ? sums.place<true>(taps, x, y) : matrix.fill<true>(taps, x, y, used);
    else
      few ? sums.place<false>(taps, x, y) : matrix.fill<false>(taps, x, y, used);
    for (int64_t c = part.channel0; c < part.channel1; ++c) {
      const __m512 g = tile.load(cotangent + c * job.output.channel, row);
      float* const to = image + c * job.grad_input.channel + taps.corner;
      // There are zeros to multiply with, which NaN and infinity would turn into NaN.
      const bool finite = _mm512_cmp_ps_mask(_mm512_sub_ps(g, g), _mm512_setzero_ps(), _CMP_EQ_OQ) == 0xffff;
      if (!finite)
        add_taps(job, Part(part, c), taps, x, y, tile, cotangent, row, image);
      else if (few)
        sums.add<TC>(g, to, image_row, first, last);
      else
        matrix.add(g, to, image_row, used, first, last);
    }
  }

  template <bool grid_too>
  static PYSTN_INLINE void vjp_of_part(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear<float>(job);
    WindowMatrix matrix;
    WindowSums window_sums;
    const int64_t row = row_stride(job, job.output.axis), channels = part.channel1 - part.channel0;
    const float* const image = static_cast<const float*>(job.grad_input.data) + part.n0 * job.grad_input.batch +
                               part.channel0 * job.grad_input.channel;
    for (int64_t n = part.n0; n < part.n1; ++n) {
      const float* const input = static_cast<const float*>(job.input.data) + n * job.input.batch;
      const float* const cotangent = static_cast<const float*>(job.output.data) + n * job.output.batch;
      for (int64_t chunk = 0; chunk < chunks_per_image(job); ++chunk) {
        Sums sums;
        GridTarget target(job, n);
        Prefetch prefetch(job, job.grad_input, channels), prefetch_input(job, job.input, channels);
        for_each_batch<grid_too, true>(job, n, chunk, job.grad_input.axis[1], &part, grid_too ? &sums : nullptr,
                                       [&](const Batch& batch) PYSTN_INLINED {
                                         if (grid_too) target.begin(batch);
                                         for (int t = 0; t < batch.tiles; ++t) {
                                           const TileTaps& taps = batch.taps[t];
                                           const TileAxis x(batch.x, t), y(batch.y, t);
                                           const At at = batch.at(t);
                                           prefetch(image, channels, taps, t);
                                           prefetch.samples(job, cotangent + at.output, t, row);
                                           add_grad_input(job, part, n, matrix, window_sums, taps, x, y, batch.tile(t),
                                                          at);
                                           if (!grid_too) continue;
                                           prefetch_input(input, job.channels, taps, t);
                                           put_grad_grid(job, n, n + 1, taps, x, y, batch.tile(t), at, target, t, sums);
                                         }
                                         if (grid_too) target.end(batch);
                                       });
        if (grid_too && !is_stored(job)) sums.add_to_matrix(job, n * chunks_per_image(job) + chunk);
      }
    }
    if (job.streams) end_streams();
  }

  static void vjp_input(const SampleJob& job, int64_t task) { vjp_of_part<false>(job, task); }

  // Both gradients in one pass, where a task owns all of an image's.
  static void vjp(const SampleJob& job, int64_t task) { vjp_of_part<true>(job, task); }

  // One tap at a time, for what has no window.
  static void add_taps(const SampleJob& job, const Part& part, const TileTaps& taps, const TileAxis& x,
                       const TileAxis& y, const Place& tile, const float* cotangent, int64_t row, float* image) {
    const int64_t image_row = job.grad_input.axis[1];
    const __m512i cell = _mm512_load_si512(y.cell), low = _mm512_set1_epi32(int(part.low));
    const __m512i height = _mm512_set1_epi32(int(part.high - part.low)), one = _mm512_set1_epi32(1);
    const __m512i line = _mm512_sub_epi32(cell, low);
    const __mmask16 upper = _mm512_cmplt_epu32_mask(line, height) & tile.exist();
    const __mmask16 lower = _mm512_cmplt_epu32_mask(_mm512_add_epi32(line, one), height) & tile.exist();
    const unsigned in0 = taps.inside0 & upper, in1 = taps.inside1 & upper;
    const unsigned in2 = taps.inside2 & lower, in3 = taps.inside3 & lower;
    const unsigned any = in0 | in1 | in2 | in3, all = in0 & in1 & in2 & in3;
    if (!any) return;
    const TapWeights weight(x, y);
    alignas(64) int offset[lanes];
    _mm512_store_si512(offset, _mm512_add_epi32(_mm512_mullo_epi32(cell, _mm512_set1_epi32(int(image_row))),
                                                _mm512_load_si512(x.cell)));
    const __m512i pairs = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t c = part.channel0; c < part.channel1; ++c) {
      const __m512 g = tile.load(cotangent + c * job.output.channel, row);
      alignas(64) float term[2][2 * lanes];  // of a row of two taps, lane by lane
      for (int r = 0; r < 2; ++r) {
        const __m512 left = _mm512_mul_ps(g, weight.of[2 * r]), right = _mm512_mul_ps(g, weight.of[2 * r + 1]);
        _mm512_store_ps(term[r], _mm512_permutex2var_ps(left, pairs, right));
        _mm512_store_ps(term[r] + lanes,
                        _mm512_permutex2var_ps(left, _mm512_add_epi32(pairs, _mm512_set1_epi32(8)), right));
      }
      float* const channel = image + c * job.grad_input.channel;
      const auto add_pair = [](float* to, const float* pair) PYSTN_INLINED {
        const auto load = [](const float* from) PYSTN_INLINED { return _mm_castsi128_ps(_mm_loadu_si64(from)); };
        _mm_storel_pi(reinterpret_cast<__m64*>(to), _mm_add_ps(load(to), load(pair)));
      };
      for (unsigned rest = any; rest; rest &= rest - 1) {
        const int l = __builtin_ctz(rest);
        float* const to = channel + offset[l];
        if (all >> l & 1) {
          add_pair(to, term[0] + 2 * l);
          add_pair(to + image_row, term[1] + 2 * l);
        } else {
          if (in0 >> l & 1) to[0] += term[0][2 * l];
          if (in1 >> l & 1) to[1] += term[0][2 * l + 1];
          if (in2 >> l & 1) to[image_row] += term[1][2 * l];
          if (in3 >> l & 1) to[image_row + 1] += term[1][2 * l + 1];
        }
      }
    }
  }

  // The same where tap 0 is the only one, and its weight 1.
  static PYSTN_INLINE void add_first_taps(const SampleJob& job, const Part& part, const TileTaps& taps,
                                          const TileAxis& x, const TileAxis& y, const Place& tile,
                                          const float* cotangent, int64_t row, float* image) {
    const __m512i cell = _mm512_load_si512(y.cell), low = _mm512_set1_epi32(int(part.low));
    const __m512i height = _mm512_set1_epi32(int(part.high - part.low));
    const __mmask16 within = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(cell, low), height);
    const unsigned in = taps.inside0 & within & tile.exist();
    if (!in) return;
    alignas(64) int offset[lanes];
    _mm512_store_si512(offset,
                       _mm512_add_epi32(_mm512_mullo_epi32(cell, _mm512_set1_epi32(int(job.grad_input.axis[1]))),
                                        _mm512_load_si512(x.cell)));
    for (int64_t c = part.channel0; c < part.channel1; ++c) {
      alignas(64) float term[lanes];
      _mm512_store_ps(term, tile.load(cotangent + c * job.output.channel, row));
      float* const channel = image + c * job.grad_input.channel;
      if (in == 0xffff)
        for (int l = 0; l < lanes; ++l) channel[offset[l]] += term[l];
      else
        for (unsigned rest = in; rest; rest &= rest - 1) {
          const int l = __builtin_ctz(rest);
          channel[offset[l]] += term[l];
        }
    }
  }
};

template <template <class> class Fold>
SampleChunk tiled_body(Direction direction, const SampleJob& job) {
  using Wide = TiledSampler<Linear, Fold, 1, 16>;
  using Square = TiledSampler<Linear, Fold, 4, 4>;
  using Nearest = TiledSampler<pystn::PYSTN_LEVEL::Nearest, Fold, 4, 4>;
  if (Mode(job.kernel[0].mode) == Mode::nearest) {
    if (job.rows < 4) return nullptr;
    return direction == Direction::forward     ? Nearest::forward
           : direction == Direction::vjp_input ? Nearest::vjp_input
                                               : SampleChunk(nullptr);
  }
  const bool square = job.rows >= 4;
  switch (direction) {
    case Direction::forward:
      return square ? Square::forward : Wide::forward;
    case Direction::vjp_input:
      return square ? Square::vjp_input : Wide::vjp_input;
    case Direction::vjp_grid:
      return square ? Square::vjp_grid : Wide::vjp_grid;
    case Direction::vjp:
      return square ? Square::vjp : Wide::vjp;
    default:
      return nullptr;
  }
}

// The tiled body for a job, or null if the general one has to do it.
inline SampleChunk tiled(Direction direction, const SampleJob& job) {
  const bool slopes = direction == Direction::vjp_grid || direction == Direction::vjp;
  const bool reads = direction != Direction::vjp_input, writes = !reads || direction == Direction::vjp;
  if (!is_of_training(direction)) return nullptr;
  if (reads && !fits_tiles(direction, job, job.input)) return nullptr;
  if (writes && !fits_tiles(direction, job, job.grad_input)) return nullptr;
  if (reads && writes && job.input.axis[1] != job.grad_input.axis[1]) return nullptr;  // one offset serves both
  if (slopes && Subgradient(job.subgradient) != Subgradient::right) return nullptr;
  if (slopes && has_wide_positions(job) && is_projective(job)) return nullptr;  // whose denominators would be float32's
  const Mode mode = Mode(job.kernel[0].mode);
  if (job.boundary[0] != job.boundary[1] || (mode != Mode::linear && mode != Mode::nearest)) return nullptr;
  switch (Boundary(job.boundary[0])) {
    case Boundary::zeros:
    case Boundary::constant:  // of 0, or there would be job.fill
      return tiled_body<Zeros>(direction, job);
    case Boundary::border:
      return tiled_body<Border>(direction, job);
    case Boundary::mirror:
      return tiled_body<Mirror>(direction, job);
    case Boundary::symmetric:
      return tiled_body<Symmetric>(direction, job);
    case Boundary::wrap:
      break;
  }
  return nullptr;
}

}  // namespace pystn::PYSTN_LEVEL
#endif
