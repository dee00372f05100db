// The gradients of linear samples of few planes of float32, eight output pixels at a time: to the grid, or to it and
// the image. As planes.hpp makes the samples; the gradient to the image has the terms and the order of
// strip_scatter.hpp, so the same bits. AVX-512 has tiles for that.
#pragma once

#include "plane_taps.hpp"

#if defined(PYSTN_EIGHT_LANES) && !defined(__AVX512F__)
#define PYSTN_PLANE_GRADIENTS 1

#include "bodies.hpp"
#include "strip_scatter.hpp"

namespace pystn::PYSTN_LEVEL {

// P: of positions.
template <class P, template <class> class Fold, bool one_plane>
struct PlaneGradients {
  static constexpr int blocks = strip_pixels / eight;
  static constexpr int apart = StripScatter<float, 2>::apart;
  static_assert(apart == eight, "neighbours in a block are far apart in the order of sums");

  // A strip's pixels in blocks of eight, the last of each row of fewer.
  struct Placed {
    int in_row, count;  // blocks
    alignas(64) int first[strip_pixels];
    Phase<P> x[blocks], y[blocks];
    Eight factor_x[blocks], factor_y[blocks];
    unsigned odd, dark;  // bits of blocks that have taps outside, and none inside
    OddPairs pairs[blocks];
  };

  // What a strip adds to a plane: the terms of a pixel's upper and lower pair, and where these are.
  struct Terms {
    alignas(64) int at[2][strip_pixels];
    alignas(64) float of[2][strip_pixels][2];
  };

  Plane<P, Fold> plane;
  int plane_count;
  bool far;  // the image is larger than what nearer caches hold

  explicit PlaneGradients(const SampleJob& job) : plane(job), plane_count(int(job.channels)) {
    constexpr int64_t worthwhile = 1 << 18;  // bytes
    far = job.size[0] * job.size[1] * job.channels * int64_t(sizeof(float)) >= worthwhile;
  }

  PYSTN_HD int planes() const { return one_plane ? 1 : plane_count; }

  // A row of so many pixels, whose first block is `block`.
  template <class From>
  static PYSTN_APART void place_row(const PlaneGradients& gradients, const From& coordinates, int count, int block,
                                    Placed& placed) {
    const PlaneGradients here = gradients;
    const From from = coordinates;
    for (int i = 0; i < count; i += eight, ++block) {
      EightOf<P> x, y;
      if (count - i < eight)
        from.load_some(i, count - i, x, y);
      else
        from.load(i, x, y);
      here.place_block(x, y, block, placed);
    }
  }
  PYSTN_HD void place_block(const EightOf<P>& x, const EightOf<P>& y, int block, Placed& placed) const {
    EightOf<P> factor_x, factor_y;
    const LinearCells<P> cells(plane, plane.position(plane.by_x, x, factor_x), plane.position(plane.by_y, y, factor_y));
    placed.factor_x[block] = floats(factor_x);
    placed.factor_y[block] = floats(factor_y);
    cells.x.copy_to(placed.x[block]);
    cells.y.copy_to(placed.y[block]);
    number_to(placed.first + block * eight, cells.first(plane));
    if (cells.odd(plane)) place_odd(plane, cells, block, placed);
  }
  static PYSTN_APART void place_odd(const Plane<P, Fold>& plane, const LinearCells<P>& cells, int block,
                                    Placed& placed) {
    const OddPairs pairs(plane, cells.at_x, cells.at_y);
    placed.pairs[block] = pairs;
    placed.odd |= 1u << block;
    if (!signs_of(pairs.reading())) placed.dark |= 1u << block;
  }

  void place(const SampleJob& job, int64_t n, const Span& strip, Placed& placed) const {
    placed.in_row = (strip.count + eight - 1) / eight;
    placed.count = placed.in_row * strip.rows;
    placed.odd = placed.dark = 0;
    if (is_stored(job)) {
      const Index row = row_stride(job, job.grid.axis);
      const P* from = static_cast<const P*>(job.grid.data) + n * job.grid.batch + offset_of(job, job.grid.axis, strip);
      for (int r = 0; r < strip.rows; ++r, from += row)
        place_row(*this, StoredCoordinates<P>{from}, strip.count, r * placed.in_row, placed);
      return;
    }
    for_each_made_row<P, strip_columns>(job, n, strip, [&](int r, const auto& from) {
      place_row(*this, from, strip.count, r * placed.in_row, placed);
    });
  }

  // Asks for the taps two strips to the right, if they lie straight on, and for the cotangents of the next.
  void prefetch(const Span& strip, const Placed& placed, const float* image, Index channel) const {
    if (!far || strip.count < strip_columns) return;
    for (int r = 0; r < strip.rows; ++r) {
      const int block = r * placed.in_row, entry = block * eight;
      if (placed.odd & (1u << block | 1u << (block + placed.in_row - 1))) continue;
      const int64_t ahead = 2 * (int64_t(placed.first[entry + strip_columns - 1]) - placed.first[entry]);
      for (int i = int(strip.row + r) % eight; i < strip_columns; i += eight)
        for (int c = 0; c < planes(); ++c) {
          const int64_t at = placed.first[entry + i] + ahead + (i & eight ? plane.row : 0);
          const uintptr_t address = reinterpret_cast<uintptr_t>(image + c * channel) + uintptr_t(at) * sizeof(float);
          __builtin_prefetch(reinterpret_cast<const char*>(address));
        }
    }
  }

  // Samples of a job: those of its output, from a strip's first on.
  struct Samples {
    const float* at;
    Index batch, channel, row;

    Samples(const SampleJob& job, int64_t n, const Span& strip)
        : at(static_cast<const float*>(job.output.data) + n * job.output.batch +
             offset_of(job, job.output.axis, strip)),
          batch(job.output.batch),
          channel(job.output.channel),
          row(row_stride(job, job.output.axis)) {}
  };
  void prefetch_samples(const Samples& samples, const Span& strip) const {
    for (int c = 0; far && c < planes(); ++c)
      prefetch_next(samples.at + c * samples.channel, strip.rows, samples.row, strip.count);
  }

  // Sums g slope over the planes of `images`, for the pixels of a row, and times d position / d coordinate.
  static PYSTN_APART void sum_slopes(const PlaneGradients& gradients, const ImageArray& input, const float* image,
                                     int64_t images, const Samples& samples, const float* cotangent, int count,
                                     int block, const Placed& placed, float (&to)[2][strip_columns]) {
    const PlaneGradients here = gradients;
    const Index image_batch = input.batch, image_channel = input.channel;
    const Index batch = samples.batch, channel = samples.channel;
    for (int i = 0; i < count; i += eight, ++block) {
      const LinearWeights w(placed.x[block], placed.y[block]);
      const bool odd = placed.odd >> block & 1, dark = placed.dark >> block & 1;
      Eight sum_x{}, sum_y{};
      for (int64_t n = 0; !dark && n < images; ++n)
        for (int c = 0; c < here.planes(); ++c) {
          const float* const from = image + n * image_batch + c * image_channel;
          const Eight g = load_eight(cotangent + n * batch + c * channel + i, count - i);
          Eight tap[2][2];
          if (odd) {
            for (int j = 0; j < 2; ++j) placed.pairs[block].read(from, j, tap[j]);
          } else {
            read_pairs(from, placed.first + block * eight, tap[0]);
            read_pairs(from + here.plane.row, placed.first + block * eight, tap[1]);
          }
          Eight slope = -w.y[0] * tap[0][0];
          slope += w.y[0] * tap[0][1];
          slope += -w.y[1] * tap[1][0];
          slope += w.y[1] * tap[1][1];
          sum_x += g * slope;
          slope = -w.x[0] * tap[0][0];
          slope += -w.x[1] * tap[0][1];
          slope += w.x[0] * tap[1][0];
          slope += w.x[1] * tap[1][1];
          sum_y += g * slope;
        }
      if (odd && !dark) {
        // Pixels that read nothing have no slopes, whatever their cotangents.
        const EightInts reading = placed.pairs[block].reading();
        sum_x = reading ? sum_x : Eight{};
        sum_y = reading ? sum_y : Eight{};
      }
      const Eight factor_x = placed.factor_x[block], factor_y = placed.factor_y[block];
      store_eight(to[0] + i, factor_x == Eight{} ? Eight{} : factor_x * sum_x);
      store_eight(to[1] + i, factor_y == Eight{} ? Eight{} : factor_y * sum_y);
    }
  }

  void put_slopes(const SampleJob& job, int64_t n0, int64_t n1, int64_t chunk, const Span& strip,
                  const Placed& placed) const {
    const Samples samples(job, n0, strip);
    const float* const image = static_cast<const float*>(job.input.data) + n0 * job.input.batch;
    alignas(64) float x[2][strip_columns];
    for (int r = 0; r < strip.rows; ++r) {
      const Span row{strip.outer, strip.row + r, strip.column, 1, strip.count};
      sum_slopes(*this, job.input, image, n1 - n0, samples, samples.at + r * samples.row, strip.count,
                 r * placed.in_row, placed, x);
      is_stored(job) ? store_grad_grid(job, n0, row, x) : add_to_matrix(job, n0, chunk, row, x);
    }
  }

  // Adds cotangents times weights to the planes of an image.
  void add(const SampleJob& job, int64_t n, const Span& strip, const Placed& placed, float* image, Terms& terms) const {
    const Samples samples(job, n, strip);
    unsigned char live[blocks];
    int count = 0;
    for (int block = 0; block < placed.count; ++block) {
      if (placed.dark >> block & 1) continue;
      live[count++] = (unsigned char)block;
      const int entry = block * eight;
      const EightInts first = number_at<EightInts>(placed.first + entry);
      const bool odd = placed.odd >> block & 1;
      number_to(terms.at[0] + entry, odd ? number_at<EightInts>(placed.pairs[block].first[0]) : first);
      number_to(terms.at[1] + entry, odd ? number_at<EightInts>(placed.pairs[block].first[1]) : first + plane.row);
    }
    for (int c = 0; c < planes(); ++c) {
      set_terms(placed, live, count, samples.at + c * samples.channel, samples.row, strip.count, terms);
      add_terms(live, count, terms, image + c * job.grad_input.channel);
    }
  }

  static PYSTN_APART void set_terms(const Placed& placed, const unsigned char* live, int count, const float* cotangent,
                                    Index row, int columns, Terms& terms) {
    for (int b = 0; b < count; ++b) {
      const int block = live[b], i = block % placed.in_row * eight;
      const Eight g = load_eight(cotangent + block / placed.in_row * row + i, columns - i);
      const LinearWeights w(placed.x[block], placed.y[block]);
      for (int j = 0; j < 2; ++j) {
        const Eight of_row = g * w.y[j];
        Eight term[2] = {of_row * w.x[0], of_row * w.x[1]};
        if (placed.odd >> block & 1) placed.pairs[block].put(j, term);
        store_pairs(terms.of[j][block * eight], term[0], term[1]);
      }
    }
  }

  static PYSTN_APART void add_terms(const unsigned char* live, int count, const Terms& terms, float* to) {
    typedef float Pair __attribute__((vector_size(2 * sizeof(float))));
    for (int l = 0; l < eight; ++l)
      for (int b = 0; b < count; ++b) {
        const int i = live[b] * eight + l;
        for (int j = 0; j < 2; ++j) {
          float* const at = to + terms.at[j][i];
          const Pair sum = number_at<Pair>(at) + number_at<Pair>(terms.of[j][i]);
          __builtin_memcpy(at, &sum, sizeof sum);
        }
      }
  }

  // Both gradients in one pass, where a task owns all of an image's and each grid has one image.
  static void vjp(const SampleJob& job, int64_t task) {
    const Part part(job, task);
    part.clear(job);
    float* const image = static_cast<float*>(job.grad_input.data) + part.n0 * job.grad_input.batch;
    const PlaneGradients here(job);
    Placed placed;
    Terms terms;
    Sampler<float, float, 2, 2>::for_each_strip_of(job, part, [&](int64_t n, const Span& strip, int64_t chunk) {
      here.place(job, n, strip, placed);
      here.prefetch(strip, placed, static_cast<const float*>(job.input.data) + n * job.input.batch, job.input.channel);
      here.prefetch(strip, placed, image, job.grad_input.channel);
      here.prefetch_samples(Samples(job, n, strip), strip);
      here.put_slopes(job, n, n + 1, chunk, strip, placed);
      here.add(job, n, strip, placed, image, terms);
    });
  }

  static void vjp_grid(const SampleJob& job, int64_t chunk) {
    const int64_t n0 = chunk / chunks_per_image(job), n1 = job.grid_batch == 1 ? job.batch : n0 + 1;
    const PlaneGradients here(job);
    Placed placed;
    for_each_strip(job, chunk % chunks_per_image(job), [&](const Span& strip) {
      here.place(job, n0, strip, placed);
      here.prefetch(strip, placed, static_cast<const float*>(job.input.data) + n0 * job.input.batch, job.input.channel);
      here.prefetch_samples(Samples(job, n0, strip), strip);
      here.put_slopes(job, n0, n1, chunk, strip, placed);
    });
  }
};

template <class Gradients>
SampleChunk plane_gradients_of(Direction direction) {
  return direction == Direction::vjp ? Gradients::vjp : Gradients::vjp_grid;
}
template <class P, template <class> class Fold>
SampleChunk folded_plane_gradients(Direction direction, const SampleJob& job) {
  return job.channels == 1 ? plane_gradients_of<PlaneGradients<P, Fold, true>>(direction)
                           : plane_gradients_of<PlaneGradients<P, Fold, false>>(direction);
}
template <class P>
SampleChunk placed_plane_gradients(Direction direction, const SampleJob& job) {
  return Boundary(job.boundary[0]) == Boundary::border ? folded_plane_gradients<P, Border>(direction, job)
                                                       : folded_plane_gradients<P, Zeros>(direction, job);
}

// The body for both gradients or that to the grid, or null if another has to do it.
inline SampleChunk plane_gradients(Direction direction, const SampleJob& job) {
  if (direction != Direction::vjp && direction != Direction::vjp_grid) return nullptr;
  if (!all_are(Element::f32, job) || job.fill) return nullptr;
  if (!fits_planes(job, false) || !fits_pairs(job)) return nullptr;
  if (Subgradient(job.subgradient) != Subgradient::right) return nullptr;
  if (direction == Direction::vjp)
    for (int a = 0; a < 2; ++a)
      if (job.grad_input.axis[a] != job.input.axis[a]) return nullptr;
  return has_wide_positions(job) ? placed_plane_gradients<double>(direction, job)
                                 : placed_plane_gradients<float>(direction, job);
}

}  // namespace pystn::PYSTN_LEVEL
#endif
