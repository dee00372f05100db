// Which body a job has, and the table of a level: the only symbol that leaves. Compiled once per instruction set, with
// PYSTN_LEVEL naming it.
#include "bodies.hpp"
#include "conversions.hpp"
#include "flow_tasks.hpp"
#include "grids.hpp"
#include "linear_grids.hpp"
#include "matrix_exponentials.hpp"
#include "matrix_source.hpp"
#include "piecewise_maps.hpp"
#include "run.hpp"
#include "spline_lines.hpp"

namespace pystn::PYSTN_LEVEL {

namespace {

// Bytes of scratch memory that a task makes use of; those of `job` are not looked at.
int64_t scratch(Direction direction, const SampleJob& job) {
  return job.footprint ? 0 : transposed_bytes(direction, job);
}

SampleJob without_mask(SampleJob job) {
  job.mask.data = nullptr;
  return job;
}

SampleChunk sample(Direction direction, const SampleJob& job);

// A direction without the mask, and then what is the mask's.
template <Direction direction>
void masked(const SampleJob& job, int64_t chunk) {
  const SampleJob plain = without_mask(job);
  sample(direction, plain)(plain, chunk);
  mask_body(direction, job)(job, chunk);
}

// The gradient to coordinates that samples do not move with: none.
template <int ND>
void no_slopes(const SampleJob& job, int64_t chunk) {
  if (!is_stored(job)) return;
  alignas(64) constexpr float nothing[ND][strip_columns] = {};
  for_each_strip(job, chunk % chunks_per_image(job), [&](const Span& strip) {
    for (int r = 0; r < strip.rows; ++r) {
      const Span row{strip.outer, strip.row + r, strip.column, 1, strip.count};
      store_grad_grid(job, chunk / chunks_per_image(job), row, nothing);
    }
  });
}

// The tangent of samples that move with the image and the fill value alone: those of their tangents.
void sample_tangents(const SampleJob& job, int64_t chunk) {
  SampleJob tangents = job;
  tangents.input = job.d_input;
  tangents.fill = job.d_fill;
  tangents.d_input.data = nullptr;
  tangents.d_fill = nullptr;
  sample(Direction::forward, tangents)(tangents, chunk);
}

SampleChunk sample(Direction direction, const SampleJob& job) {
  if (job.footprint) return footprint_body(direction, job);
  if (job.mask.data && direction == Direction::forward) return masked<Direction::forward>;
  if (job.mask.data && direction == Direction::vjp_grid) return masked<Direction::vjp_grid>;
  if (direction == Direction::vjp_grid && all_are_nearest(job))
    return with_ndim(job, [](auto ndim) -> SampleChunk { return no_slopes<ndim.value>; });
  if (direction == Direction::jvp && all_are_nearest(job) && job.d_input.data && !job.mask.data && !job.projected)
    return sample_tangents;
  if (job.scratch) return transposed_body(direction, job);
  if (direction != Direction::reach) {
    if (const SampleChunk body = body_of_tiles(direction, job)) return body;
    if (direction == Direction::forward)
      if (const SampleChunk body = body_of_pixels(job)) return body;
    if (is_uniform(job)) {
      if (const SampleChunk body = body_of_planes(direction, job)) return body;
      if (const SampleChunk body = body_of_channels(direction, job)) return body;
      if (const SampleChunk body = body_of_blocks(direction, job)) return body;
    }
  }
  return general_body(direction, job);
}

void all_target_columns(const SampleJob& job, void* to) {
  has_wide_positions(job) ? target_columns(job, 0, job.source.size[0], static_cast<double*>(to))
                          : target_columns(job, 0, job.source.size[0], static_cast<float*>(to));
}

// Whether arrays are of other types than the arithmetic's, and no body is made for these.
bool looks_up(Direction direction, const SampleJob& job) {
  if (job.footprint || is_uniform(job)) return false;
  return direction != Direction::forward || !body_of_pixels(without_mask(job));
}

bool walks_rows(const SampleJob& job) {
  if (job.columns < 16) return false;  // of vectors that rows fill little of
  if (job.channels > 1) return true;
  return job.columns >= strip_columns && body_of_tiles(Direction::forward, without_mask(job)) != nullptr;
}

void lattice_coordinates(const LatticeJob& job, void* to) {
  job.type == Element::f32 ? set_coordinates(job, static_cast<float*>(to))
                           : set_coordinates(job, static_cast<double*>(to));
}

template <class R>
LatticeChunk affine_lattice(const LatticeJob& job, bool forward) {
  switch (job.ndim) {
    case 1:
      return forward ? AffineLattice<R, 1>::forward : AffineLattice<R, 1>::vjp;
    case 2:
      return forward ? AffineLattice<R, 2>::forward : AffineLattice<R, 2>::vjp;
    default:
      return forward ? AffineLattice<R, 3>::forward : AffineLattice<R, 3>::vjp;
  }
}
LatticeChunk affine_grid(const LatticeJob& job) {
  return job.type == Element::f32 ? affine_lattice<float>(job, true) : affine_lattice<double>(job, true);
}
LatticeChunk affine_grid_vjp(const LatticeJob& job) {
  return job.type == Element::f32 ? affine_lattice<float>(job, false) : affine_lattice<double>(job, false);
}

template <class R>
LatticeChunk projective_lattice(const LatticeJob& job, bool forward) {
  using Lattice = ProjectiveLattice<R>;
  if (forward) return job.d_theta ? Lattice::template forward<true> : Lattice::template forward<false>;
  return job.d_theta ? Lattice::template vjp<true> : Lattice::template vjp<false>;
}
LatticeChunk projective_grid(const LatticeJob& job) {
  return job.type == Element::f32 ? projective_lattice<float>(job, true) : projective_lattice<double>(job, true);
}
LatticeChunk projective_grid_vjp(const LatticeJob& job) {
  return job.type == Element::f32 ? projective_lattice<float>(job, false) : projective_lattice<double>(job, false);
}

template <class R>
LinearTask linear_lattice(const LinearJob& job, bool forward) {
  switch (job.rows) {
    case 1:
      return forward ? LinearLattice<R, 1>::forward : LinearLattice<R, 1>::vjp;
    case 2:
      return forward ? LinearLattice<R, 2>::forward : LinearLattice<R, 2>::vjp;
    case 3:
      return forward ? LinearLattice<R, 3>::forward : LinearLattice<R, 3>::vjp;
    default:
      return forward ? LinearLattice<R, 4>::forward : LinearLattice<R, 4>::vjp;
  }
}
LinearTask linear_grid(const LinearJob& job) {
  return job.type == Element::f32 ? linear_lattice<float>(job, true) : linear_lattice<double>(job, true);
}
LinearTask linear_grid_vjp(const LinearJob& job) {
  return job.type == Element::f32 ? linear_lattice<float>(job, false) : linear_lattice<double>(job, false);
}

template <template <class> class Flow, class R>
FlowTask flow_of(const FlowJob& job, bool forward) {
  if (forward) return job.d_field ? Flow<R>::jvp : Flow<R>::forward;
  return job.d_field ? Flow<R>::vjp2 : Flow<R>::vjp;
}
template <class R>
FlowTask flow_body(const FlowJob& job, bool forward) {
  return job.ndim == 1 ? flow_of<IntervalFlow, R>(job, forward) : flow_of<TriangleFlow, R>(job, forward);
}
FlowTask flow(const FlowJob& job) {
  return job.type == Element::f32 ? flow_body<float>(job, true) : flow_body<double>(job, true);
}
FlowTask flow_vjp(const FlowJob& job) {
  return job.type == Element::f32 ? flow_body<float>(job, false) : flow_body<double>(job, false);
}
int64_t flow_scratch(const FlowJob& job) {
  return job.ndim == 1 ? IntervalFlow<double>::scratch(job) : TriangleFlow<double>::scratch(job);
}

PiecewiseTask piecewise(const PiecewiseJob& job) {
  return job.type == Element::f32 ? PiecewiseMap<float>::forward : PiecewiseMap<double>::forward;
}
PiecewiseTask piecewise_vjp(const PiecewiseJob& job) {
  return job.type == Element::f32 ? PiecewiseMap<float>::vjp : PiecewiseMap<double>::vjp;
}

template <int order>
ExponentialTask exponential_of(const ExponentialJob& job) {
  switch (job.rows) {
    case 2:
      return MatrixExponentials<order, 2>::forward;
    case 3:
      return MatrixExponentials<order, 3>::forward;
    case 4:
      return MatrixExponentials<order, 4>::forward;
    default:
      return MatrixExponentials<order, 0>::forward;
  }
}
ExponentialTask exponential(const ExponentialJob& job) {
  return !job.along ? exponential_of<0>(job) : job.then ? exponential_of<2>(job) : exponential_of<1>(job);
}
int64_t exponential_scratch(const ExponentialJob& job) {
  if (!job.along) return MatrixExponentials<0, 0>::scratch(job);
  return job.then ? MatrixExponentials<2, 0>::scratch(job) : MatrixExponentials<1, 0>::scratch(job);
}

int64_t spline_factors(const SplineJob& job) {
  const SplineFactors factors(job.order, Boundary(job.boundary), job.length, job.factors);
  if (job.factors) factors.factor(job.order, Boundary(job.boundary), job.transposed);
  return factors.size();
}

SplineChunk spline_filter(const SplineJob& job) {
  return job.type == Element::f32 ? SplineLines<float>::body(job) : SplineLines<double>::body(job);
}

}  // namespace

#define PYSTN_STRING(name) #name
#define PYSTN_NAME(name) PYSTN_STRING(name)
extern const Level level;
const Level level = {PYSTN_NAME(PYSTN_LEVEL),
                     sample,
                     all_target_columns,
                     scratch,
                     walks_rows,
                     looks_up,
                     lattice_coordinates,
                     affine_grid,
                     affine_grid_vjp,
                     projective_grid,
                     projective_grid_vjp,
                     linear_grid,
                     linear_grid_vjp,
                     flow,
                     flow_vjp,
                     flow_scratch,
                     piecewise,
                     piecewise_vjp,
                     exponential,
                     exponential_scratch,
                     spline_factors,
                     spline_filter,
                     convert};

}  // namespace pystn::PYSTN_LEVEL
