// Gradients of samples that read two pixels along an axis, where the lanes of a warp are a tile of the output.
// Neighbours there add to the same pixels, and one of them takes over what the other would: all that is added by
// atomics passes the second cache, which bounds these kernels.
#pragma once

#include "sampling.cuh"

namespace pystn::PYSTN_LEVEL {

constexpr int tile_width = 8, tile_height = 4;  // 32 lanes
constexpr int nowhere = -0x7fffffff;            // further than any offset in a PlainJob

// The sample of a lane; that of a lane beyond the output is the first one, and not active.
template <class I>
struct TileSample {
  I n, pixel;
  bool active;

  // The rows of all axes but x follow each other.
  template <class Job>
  PYSTN_HD TileSample(const Job& job, I tile) {
    const I width = I(job.row), rows = quotient(I(job.pixels), width), across = (width + tile_width - 1) / tile_width;
    const I of_image = across * ((rows + tile_height - 1) / tile_height), lane = I(threadIdx.x) % 32;
    n = quotient(tile, of_image);
    tile -= n * of_image;
    const I down = quotient(tile, across);
    const I x = (tile - down * across) * tile_width + lane % tile_width, y = down * tile_height + lane / tile_width;
    active = x < width && y < rows;
    pixel = active ? y * width + x : I(0);
  }
  template <class Job>
  static PYSTN_HD Index tiles(const Job& job) {
    const Index rows = job.pixels / job.row;
    return (job.row + tile_width - 1) / tile_width * ((rows + tile_height - 1) / tile_height);
  }
};

template <class Job, class T, class R, class I, int ND>
struct Tile {
  using Sampling = Sampler<Job, T, R, I, ND, 2>;
  using Flat = FlatTaps<R, I, ND, 2>;

  Flat taps;      // into the image that is added to
  bool gives[2];  // along x and y: the taps on the far side are the next lane's on the near one

  static PYSTN_HD int apart(int a) { return a == 0 ? 1 : tile_width; }
  static PYSTN_HD int lane_along(int a) {
    return a == 0 ? int(threadIdx.x) % tile_width : int(threadIdx.x) % 32 / tile_width;
  }

  PYSTN_HD void join() {
    PYSTN_UNROLL
    for (int a = 0; a < 2; ++a) {
      gives[a] = lane_along(a) + 1 < (a == 0 ? tile_width : tile_height);
      PYSTN_UNROLL
      for (int k = 0; k < Flat::count; ++k) {
        if (!(k >> a & 1)) continue;
        const int near = k - (1 << a);
        const I next = __shfl_down_sync(all_lanes, taps.inside[near] ? taps.offset[near] : I(nowhere), apart(a));
        gives[a] = gives[a] && next == (taps.inside[k] ? taps.offset[k] : I(nowhere));
      }
    }
  }

  // What a lane has taken over it adds to what it has, and may give on along x. A sum of 0 is not added.
  PYSTN_HD void add(const ImageArray& image, I at, R g) const {
    R sum[Flat::count];
    PYSTN_UNROLL
    for (int k = 0; k < Flat::count; ++k) sum[k] = taps.inside[k] ? g * taps.weight[k] : R(0);
    PYSTN_UNROLL
    for (int a = 1; a >= 0; --a) {
      PYSTN_UNROLL
      for (int k = 0; k < Flat::count; ++k) {
        if (!(k >> a & 1)) continue;
        const R taken = __shfl_up_sync(all_lanes, gives[a] ? sum[k] : R(0), apart(a));
        if (gives[a]) sum[k] = R(0);
        if (lane_along(a) > 0) sum[k - (1 << a)] += taken;
      }
    }
    PYSTN_UNROLL
    for (int k = 0; k < Flat::count; ++k)
      if (sum[k] != R(0)) Sampling::add(image, at + taps.offset[k], sum[k]);
  }

  // grad_input += output w; with `slopes`, `to` as Sampler::slopes has it. Of images n0 to n1, which share coordinates.
  template <bool slopes>
  static PYSTN_HD void pull(const Job& job, I n0, I n1, const Place<I>& place, bool active, I layer, R* to) {
    R x[ND];
    load_coordinates<R, I, ND>(job, n0, place, x);
    Sample<R, I, ND, 2> sample;
    sample.template place<slopes ? 1 : 0>(job, x);
    sample.cut = sample.cut || !active;
    I stride[ND];
    for (int a = 0; a < ND; ++a) stride[a] = I(job.grad_input.axis[a]);
    Tile tile;
    tile.taps.template place<false>(sample, stride);
    tile.join();
    const bool reads = sample.reads();
    Flat products;
    for (int a = 0; a < ND; ++a) stride[a] = I(job.input.axis[a]);
    if (slopes) products.template place<true>(sample, stride);
    for (I n = n0; n < n1; ++n) {
      const typename Sampling::Source_ image(job.input, n);
      const I first = place_in(job, job.output, n, place), base = n * I(job.grad_input.batch);
      PYSTN_UNROLL_BY(2)
      for (I c = layer; c < I(job.channels); c += I(job.layers)) {
        const R g = reads ? Sampling::read(job.output, first + channel_offset(job, job.output.channel, c)) : R(0);
        if (slopes) {
          R value[Flat::count];
          image.load(products, channel_offset(job, image.channel, c), value);
          for (int a = 0; a < ND; ++a) {
            R slope = R(0);
            for (int k = 0; k < Flat::count; ++k) slope += products.slope[a][k] * value[k];
            to[a] += g * slope;
          }
        }
        tile.add(job.grad_input, base + channel_offset(job, job.grad_input.channel, c), g);
      }
    }
    const R through_mask[ND] = {};
    if (slopes) Sampling::deliver(sample, to, through_mask);
  }
};

// Whole warps take their turns.
template <class Job, class T, class R, class I, int ND, int room>
__global__ void vjp_input_tiles(const Job job) {
  static_assert(room == 2, "two taps on an axis");
  const Index count = job.batch * TileSample<I>::tiles(job);
  for (Index tile = first_turn() / 32; tile < count; tile += turn_stride() / 32) {
    const TileSample<I> at(job, I(tile));
    Tile<Job, T, R, I, ND>::template pull<false>(job, at.n, at.n + 1, Place<I>(job, at.pixel), at.active, blockIdx.y,
                                                 nullptr);
  }
}

template <class Job, class T, class R, class I, int ND, int room>
__global__ void vjp_tiles(const Job job) {
  static_assert(room == 2, "two taps on an axis");
  const Index count = job.grid_batch * TileSample<I>::tiles(job);
  for (Index tile = first_turn() / 32; tile < count; tile += turn_stride() / 32) {
    const TileSample<I> at(job, I(tile));
    const Place<I> place(job, at.pixel);
    const I until = job.grid_batch == 1 ? I(job.batch) : at.n + 1;
    R slopes[ND] = {};
    Tile<Job, T, R, I, ND>::template pull<true>(job, at.n, until, place, at.active, 0, slopes);
    if (at.active) Sampler<Job, T, R, I, ND, room>::store_grad_grid(job, at.n, place, slopes);
  }
}

// With the sums for a matrix, as vjp_matrix has them.
template <class Job, class T, class R, class I, int ND, int room>
__global__ void vjp_matrix_tiles(const Job job) {
  static_assert(room == 2, "two taps on an axis");
  const I matrix = I(blockIdx.x / job.source.chunks), chunk = I(blockIdx.x % job.source.chunks);
  const I tiles = I(TileSample<I>::tiles(job)), warps = block_threads / 32;
  const I until = job.grid_batch == 1 ? I(job.batch) : matrix + 1;
  double sums[ND + 1][ND + 1] = {};
  for (I tile = chunk * warps + I(threadIdx.x) / 32; tile < tiles; tile += I(job.source.chunks) * warps) {
    const TileSample<I> at(job, tile);
    const Place<I> place(job, at.pixel);
    R slopes[ND] = {};
    Tile<Job, T, R, I, ND>::template pull<true>(job, matrix, until, place, at.active, 0, slopes);
    if (at.active) add_outer<ND>(slopes, LatticePoint<R, I, ND>(job, matrix, place).at, sums);
  }
  __shared__ double of_warps[(ND + 1) * (ND + 1)][block_threads / 32];
  store_partial(job, sums, of_warps);
}

}  // namespace pystn::PYSTN_LEVEL
