// The gradient to the image of an affine warp, pixel by pixel: a thread finds the samples that read its pixel by the
// inverse of the matrix, and adds up what they give, in their order. Nothing is added by atomics, and all runs have the
// same bits.
//
// For boundaries that fold nothing into the image: a pixel is then read from its own neighbourhood alone.
#pragma once

#include "sampling.cuh"

namespace pystn::PYSTN_LEVEL {

// Of a matrix: which samples may read a pixel. Sample i lies at step i + start, in pixels. All bounds are wider than
// the exact ones by more than rounding can take, so that the taps themselves decide.
template <class R, int ND>
struct Readers {
  R step[ND][ND], start[ND];
  R per_step[ND];              // 1 / step[a][0]; none where numbers of the axis do not fit R
  R reach[ND];                 // so far from a sample, at most, are its taps
  R back[ND][ND], extent[ND];  // samples i with |i - back (pixel - start)| <= extent, on all axes but x
  bool none;                   // for positions that are no numbers

  template <class Job>
  PYSTN_HD void set(const Job& job, const R* matrix, double half_taps) {
    const Coordinates convention = Coordinates(job.coordinates);
    double moves[ND][ND], origin[ND], most[ND], first[ND], apart[ND], far[ND];  // of the lattice's coordinates
    for (int b = 0; b < ND; ++b) {
      const Index m = job.source.size[b];
      const double last = target_coordinate<double>(convention, m - 1, m);
      first[b] = target_coordinate<double>(convention, 0, m);
      apart[b] = m > 1 ? (last - first[b]) / double(m - 1) : 0.0;
      far[b] = ::fmax(absolute(first[b]), absolute(last));
    }
    bool all_fit = true;
    none = false;
    for (int a = 0; a < ND; ++a, matrix += ND + 1) {
      const auto normalize = Normalization<double>::of(convention, job.size[a]);
      double at = double(matrix[ND]);
      most[a] = double(job.size[a]) + absolute(normalize.scale * at);
      for (int b = 0; b < ND; ++b) {
        const double entry = double(matrix[b]), scaled = normalize.scale * entry;
        moves[a][b] = scaled * apart[b];
        at += entry * first[b];
        most[a] += absolute(scaled) * far[b];
        none = none || !is_finite(entry);
      }
      none = none || !is_finite(double(matrix[ND]));
      origin[a] = normalize(at);
      reach[a] = R(half_taps + 16 * Limits<R>::epsilon * most[a]);
      start[a] = R(origin[a]);
      bool fits = is_finite(start[a]);
      for (int b = 0; b < ND; ++b) {
        step[a][b] = R(moves[a][b]);
        fits = fits && is_finite(step[a][b]);
      }
      per_step[a] = fits ? R(1) / step[a][0] : infinity<R>() - infinity<R>();
      all_fit = all_fit && fits;
    }
    if constexpr (ND > 1) invert(moves, origin, most, all_fit);
  }

  // Row b of the inverse is the cross product of the other columns over the determinant.
  PYSTN_HD void invert(const double (&moves)[ND][ND], const double* origin, const double* most, bool fits) {
    double cross[ND][ND], determinant = 0, lengths = 1;
    for (int b = 0; b < ND; ++b) {
      double length = 0;
      for (int a = 0; a < ND; ++a) {
        if constexpr (ND == 2) {
          cross[b][a] = (a == b ? 1.0 : -1.0) * moves[1 - a][1 - b];
        } else {
          const int r = (a + 1) % 3, s = (a + 2) % 3, p = (b + 1) % 3, q = (b + 2) % 3;
          cross[b][a] = moves[r][p] * moves[s][q] - moves[s][p] * moves[r][q];
        }
        length += absolute(moves[a][b]);
      }
      lengths *= length;
    }
    for (int a = 0; a < ND; ++a) determinant += moves[a][0] * cross[0][a];
    const bool regular = fits && absolute(determinant) > 1e-6 * lengths && is_finite(determinant);
    const double factor = regular ? 1 / determinant : 0.0, slack = 16 * double(Limits<R>::epsilon) + 1e-9;
    for (int b = 1; b < ND; ++b) {
      double sum = 0;
      for (int a = 0; a < ND; ++a) {
        const double entry = cross[b][a] * factor;
        back[b][a] = R(entry);
        sum += absolute(entry) * (double(reach[a]) + slack * (most[a] + absolute(origin[a])));
      }
      extent[b] = regular ? R(sum) : infinity<R>();
    }
  }

  // Samples from low to high, if they are any, of m. What is no number bounds nothing.
  template <class I>
  static PYSTN_HD void between_bounds(R from, R to, Index m, I& low, I& high) {
    low = I(::fmin(::fmax(::ceil(from), R(0)), R(m)));
    high = I(::fmin(::fmax(::floor(to), R(-1)), R(m)));
    high = high < I(m) ? high : I(m) - 1;
  }

  // On axis b, which is not x.
  template <class I>
  PYSTN_HD void bounds(const I* pixel, int b, Index m, I& low, I& high) const {
    R centre = R(0);
    for (int a = 0; a < ND; ++a) centre += back[b][a] * (R(pixel[a]) - start[a]);
    between_bounds(centre - extent[b], centre + extent[b], m, low, high);
  }

  // Along x, of a row whose other indices are `at`.
  template <class I>
  PYSTN_HD void bounds_in_row(const I* pixel, const I* at, Index m, I& low, I& high) const {
    const R slack = 8 * Limits<R>::epsilon * R(m);
    R from = R(-1), to = R(m);
    for (int a = 0; a < ND; ++a) {
      R offset = start[a] - R(pixel[a]);
      for (int b = 1; b < ND; ++b) offset += step[a][b] * R(at[b]);
      const R one = (-reach[a] - offset) * per_step[a], other = (reach[a] - offset) * per_step[a];
      // 0 steps from the bound, or nothing is known
      if (one != one || other != other) continue;
      from = ::fmax(from, ::fmin(one, other) - slack);
      to = ::fmin(to, ::fmax(one, other) + slack);
    }
    between_bounds(from, to, m, low, high);
  }
};

template <class Job, class T, class R, class I, int ND, int room>
struct Gatherer {
  static_assert(room <= 4, "all taps are known");
  using Elements_ = Elements<T>;
  static constexpr int channels = 4;  // of a thread
  static constexpr double half_taps = room / 2.0;

  I pixel[ND], first, step, count;  // channels of the thread: so many, the first of them and from one to the next
  R sums[channels];

  // What sample `place` gives.
  PYSTN_HD void add(const Job& job, I n, const Place<I>& place) {
    R x[ND];
    load_coordinates<R, I, ND>(job, n, place, x);
    Sample<R, I, ND, room> taps;
    taps.template place<0>(job, x);
    R weight = R(1);
    bool reads = !taps.cut;
    PYSTN_UNROLL
    for (int a = 0; a < ND; ++a) {
      R w = R(0);
      bool here = false;
      PYSTN_UNROLL
      for (int k = 0; k < room; ++k) {
        if (taps.axis[a].index[k] != pixel[a]) continue;
        w = taps.axis[a].w[k];
        here = true;
      }
      weight *= w;
      reads = reads && here;
    }
    if (!reads) return;
    const I at = place_in(job, job.output, n, place);
    PYSTN_UNROLL
    for (int k = 0; k < channels; ++k) {
      if (k >= count) break;
      const I c = channel_offset(job, job.output.channel, first + k * step);
      sums[k] += weight * Elements_::template read<R>(job.output.data, Type(job.output.type), at + c);
    }
  }

  // What the samples give whose indices on the axes from L on are those of `place`.
  template <int L>
  PYSTN_HD void walk(const Job& job, const Readers<R, ND>& readers, I n, Place<I>& place) {
    I low, high;
    if constexpr (L > 1) {
      readers.bounds(pixel, L - 1, job.source.size[L - 1], low, high);
      for (I i = low; i <= high; ++i) {
        place.at[L - 1] = i;
        walk<L - 1>(job, readers, n, place);
      }
    } else {
      readers.bounds_in_row(pixel, place.at, job.source.size[0], low, high);
      for (I i = low; i <= high; ++i) {
        place.at[0] = i;
        add(job, n, place);
      }
    }
  }

  PYSTN_HD void store(const Job& job, I n) const {
    const ImageArray& image = job.grad_input;
    I at = n * I(image.batch);
    for (int a = 0; a < ND; ++a) at += pixel[a] * I(image.axis[a]);
    for (int k = 0; k < count; ++k)
      Elements<Any>::store<R>(image.data, Type(image.type), at + channel_offset(job, image.channel, first + k * step),
                              sums[k]);
  }
};

// A block has some tiles, one after the other: pixels of one image, and some of its channels, or all of those that are
// next to each other in memory. Tiles of one image follow each other, and then what is known of a matrix stays.
template <class Job, class T, class R, class I, int ND, int room>
__global__ void gather_input(const Job job) {
  using Pixel = Gatherer<Job, T, R, I, ND, room>;
  __shared__ Readers<R, ND> readers;
  const bool shared = job.grad_input.batch == 0;  // by the batch
  const I layers = I(job.layers), inner = job.adjacent_layers ? layers : I(1);
  Index pixels = 1;
  for (int a = 0; a < ND; ++a) pixels *= job.size[a];
  const Index tiles = (pixels * inner + block_threads - 1) / block_threads;
  const Index all = tiles * (layers / inner) * (shared ? 1 : job.batch);
  const Index each = (all + gridDim.x - 1) / gridDim.x,
              end = (blockIdx.x + 1) * each < all ? (blockIdx.x + 1) * each : all;
  const I matrices = I(job.source.count), of_matrix = matrices == 0 ? I(0) : quotient(I(job.pixels), matrices);
  I known = -1;  // the matrix that `readers` are of
  for (Index tile = blockIdx.x * each; tile < end; ++tile) {
    const Index part = tile / tiles, image = part / (layers / inner);
    const I thread = I((tile - part * tiles) * block_threads + threadIdx.x);
    I rest = quotient(thread, inner);
    const bool active = rest < I(pixels);
    Pixel to;
    to.first = inner > 1 ? thread - rest * inner : I(part - image * layers);
    to.step = layers;
    to.count = to.first < I(job.channels) ? quotient(I(job.channels) - to.first + layers - 1, layers) : I(0);
    for (int a = 0; a < ND; ++a) {
      const I length = I(job.size[a]), beyond = quotient(rest, length);
      to.pixel[a] = rest - beyond * length;
      rest = beyond;
    }
    for (int k = 0; k < Pixel::channels; ++k) to.sums[k] = R(0);
    const I from = shared ? I(0) : I(image), until = shared ? I(job.batch) : from + 1;
    for (I n = from; n < until; ++n)
      for (I k = 0; k < matrices; ++k) {
        Place<I> place(job, k * of_matrix);
        if (known != n * matrices + k) {
          known = n * matrices + k;
          __syncthreads();
          if (threadIdx.x == 0) {
            const LatticePoint<R, I, ND> point(job, n, place);
            readers.set(job, static_cast<const R*>(job.source.theta) + point.matrix, Pixel::half_taps);
          }
          __syncthreads();
        }
        if (active && !readers.none) to.template walk<ND>(job, readers, n, place);
      }
    if (active) to.store(job, I(image));
  }
}

}  // namespace pystn::PYSTN_LEVEL
