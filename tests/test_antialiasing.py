"""Anti-aliasing: what it is for, its equations written out, peers, derivatives and their options."""

import itertools

import numpy as np
import oracle
import pytest
from jacobians import assert_adjoint, assert_close, assert_second_order, difference

import pystn
from pystn.backends import backend_of
from pystn.options import resolve

KINDS = ("supersample", "mipmap", "scaled", "ewa")


def image_of(rng, ndim, batch=2, channels=2):
    return rng.standard_normal((batch, channels, *(7, 9, 10)[3 - ndim :]))


def matrices_of(rng, ndim, batch=2):
    """Matrices that shrink an image by 2 to 3 to the few pixels of `size_of`, each axis by a factor of its own."""
    return 0.9 * np.eye(ndim, ndim + 1) + rng.uniform(-0.2, 0.2, (batch, ndim, ndim + 1))


def size_of(ndim):
    return (2, 3, 4)[3 - ndim :]


def projective(theta):
    last = np.broadcast_to([0.15, -0.2, 1.0], (len(theta), 1, 3))
    return np.concatenate([theta, last], axis=1)


def functions(name):
    return [getattr(pystn, f"{name}{suffix}") for suffix in ("", "_vjp", "_jvp", "_vjp2")]


# ---- what it is for


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_constant_images_are_preserved(kind, ndim, rng):
    image, theta = np.full((1, 2, *(7, 9, 10)[3 - ndim :]), 3.25), 2 * matrices_of(rng, ndim)
    options = {"padding_mode": "border", "antialias": kind}
    grid = pystn.affine_grid(theta, size_of(ndim))
    outputs = [pystn.grid_sample(image, grid, **options), pystn.warp_affine(image, theta, size_of(ndim), **options)]
    if ndim == 2:
        outputs.append(pystn.warp_projective(image, projective(theta), size_of(2), **options))
    for output in outputs:
        np.testing.assert_allclose(output, 3.25, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_finer_than_the_samples_is_gone(kind):
    """A checkerboard, shrunk by 4: samples see one colour of it, averages see both."""
    board = (-1.0) ** np.add.outer(np.arange(16), np.arange(16))[None, None]
    theta = np.array([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
    options = {"coords": "pixel", "padding_mode": "mirror"}
    np.testing.assert_array_equal(pystn.warp_affine(board, theta, (4, 4), **options), 1.0)
    chosen = pystn.Supersampling(4) if kind == "supersample" else kind
    shrunk = pystn.warp_affine(board, theta, (4, 4), antialias=chosen, **options)
    assert np.abs(shrunk).max() < 0.05


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("supersample", "ewa")])
@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
def test_samples_as_close_as_pixels_are_as_they_were(kind, mode, rng):
    image, theta = image_of(rng, 2), np.array([[[0.6, -0.3, 0.1], [0.3, 0.6, -0.2]]])
    options = {"mode": mode, "cutoff": "edge", "fill_value": 2.0, "padding_mode": "constant"}
    grid, u = pystn.affine_grid(theta, (8, 9)), rng.standard_normal((2, 2, 8, 9))
    plain = pystn.grid_sample(image, grid, **options)
    np.testing.assert_allclose(pystn.grid_sample(image, grid, antialias=kind, **options), plain, rtol=0, atol=1e-12)
    plain = pystn.grid_sample_vjp(u, image, grid, **options)
    for found, expected in zip(pystn.grid_sample_vjp(u, image, grid, antialias=kind, **options), plain, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


# ---- the equations, written out


def differences(grid):
    """d grid / d target axis, x first, (ndim, ...): NumPy's gradient, and 0 along axes of one pixel."""
    ndim = grid.shape[-1]
    axes = [grid.ndim - 2 - k for k in range(ndim)]
    return np.stack([np.gradient(grid, axis=a) if grid.shape[a] > 1 else np.zeros_like(grid) for a in axes])


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (2, 1, 3)])
def test_supersampling_is_the_mean_of_sub_pixels(shape, rng):
    image, grid = image_of(rng, 2), rng.uniform(-1.2, 1.2, (2, *shape, 2))
    steps, offsets = differences(grid), np.array([-1 / 3, 0.0, 1 / 3])
    moved = [grid + dx * steps[0] + dy * steps[1] for dx, dy in itertools.product(offsets, repeat=2)]
    options = {"mode": "cubic", "padding_mode": "wrap", "align_corners": True}
    expected = np.mean([pystn.grid_sample(image, g, **options) for g in moved], axis=0)
    found, mask = pystn.grid_sample(image, grid, antialias=pystn.Supersampling(3), return_mask=True, **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    expected = np.mean([pystn.grid_sample(image, g, return_mask=True, **options)[1] for g in moved], axis=0)
    np.testing.assert_allclose(mask, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["warp_affine", "warp_projective"])
@pytest.mark.parametrize("align, coords", [(False, "normalized"), (True, "normalized"), (False, "pixel")])
def test_supersampling_a_matrix_is_a_larger_output(name, align, coords, rng):
    """The sub-pixels of an output are the pixels of one that is finer, moved by what they are off its lattice."""
    image, theta = image_of(rng, 2), matrices_of(rng, 2)
    if name == "warp_projective":
        theta = projective(theta)
    if coords == "pixel":
        theta[:, :2] *= 2.5
    samples, size, options = 2, (3, 4), {"align_corners": align, "coords": coords}
    into = np.eye(3)
    for a, n in enumerate(size[::-1]):
        fine, coarse = np.arange(samples * n), (np.arange(samples * n) + 0.5) / samples - 0.5
        if coords != "pixel":
            fine = (2 * fine - (samples * n - 1)) / (samples * n - align)
            coarse = (2 * coarse - (n - 1)) / (n - align)
        into[a, a], into[a, 2] = np.polyfit(fine, coarse, 1)
    fine = getattr(pystn, name)(image, theta @ into, (6, 8), **options)
    expected = fine.reshape(2, 2, 3, 2, 4, 2).mean(axis=(3, 5))
    found = getattr(pystn, name)(image, theta, size, antialias="supersample", **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def pyramid(image, levels):
    """The image (H, W) and smaller ones, pixel by pixel."""
    found = [image]
    for _ in range(levels):
        last = found[-1]
        h, w = ((n + 1) // 2 for n in last.shape)
        found.append(
            np.array([[last[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(w)] for i in range(h)])
        )
    return found


def mip_mapped(image, grid, levels, detail=None):
    """One channel of one image (H, W) at a grid (h, w, 2), cubic, beyond the border as there, by the oracle."""
    scale = np.array(image.shape[::-1]) / 2
    points = (grid + 1) * scale - 0.5
    if detail is None:
        norms = np.linalg.norm(differences(grid) * scale, axis=-1)
        detail = np.clip(np.log2(norms.max(axis=0)), 0, levels)
    images, output = pyramid(image, levels), np.empty(grid.shape[:-1])
    for at in np.ndindex(*output.shape):
        low = min(int(detail[at]), levels - 1)
        samples = [
            oracle.grid_sample(
                images[level][None, None],
                ((points[at] + 0.5) / 2**level - 0.5)[None, None],
                mode="cubic",
                padding_mode="border",
                align_corners=False,
                coords="pixel",
            ).item()
            for level in (low, low + 1)
        ]
        output[at] = samples[0] + (detail[at] - low) * (samples[1] - samples[0])
    return output, detail


def test_mip_maps_are_between_two_levels(rng):
    image, grid = rng.standard_normal((7, 10)), pystn.affine_grid(matrices_of(rng, 2), (3, 4))[0]
    grid = grid + rng.uniform(-0.2, 0.2, grid.shape)
    expected, detail = mip_mapped(image, grid, 2)
    assert detail.min() < 1 < detail.max()
    options = {"mode": "cubic", "padding_mode": "border"}
    limited = {"antialias": pystn.MipMap(levels=2), **options}
    found = pystn.grid_sample(image[None, None], grid[None], **limited)
    np.testing.assert_allclose(found[0, 0], expected, rtol=0, atol=1e-12)

    # With the level of detail as a constant, and as a function of the grid.
    u, d = rng.standard_normal(expected.shape), rng.standard_normal(grid.shape)
    for detach, fixed in ((True, detail), (False, None)):
        along = difference(lambda g, fixed=fixed: mip_mapped(image, g, 2, fixed)[0], [grid], [d])
        chosen = {"antialias": pystn.MipMap(levels=2, detach=detach), **options}
        found = pystn.grid_sample_jvp(image[None, None], grid[None], None, d[None], **chosen)
        assert_close(found[0, 0], along)
        _, gradient = pystn.grid_sample_vjp(u[None, None], image[None, None], grid[None], **chosen)
        assert_adjoint(found[0, 0], u, [gradient[0]], [d])


@pytest.mark.parametrize("align, coords", [(False, "normalized"), (True, "normalized"), (False, "pixel")])
@pytest.mark.parametrize("kind", ["scaled", "ewa"])
def test_footprints_are_those_of_the_differences(kind, align, coords, rng):
    image, grid = image_of(rng, 2), pystn.affine_grid(matrices_of(rng, 2), (3, 4))
    grid[0] += rng.uniform(-0.2, 0.2, grid[0].shape)
    grid[1] *= 0.2  # where nothing shrinks
    unit = np.array([9, 10][::-1]) / 2 - align / 2
    if coords == "pixel":
        grid, unit = 4 * grid + 4, np.ones(2)
    jacobian = np.moveaxis(differences(grid) * unit, 0, -1)
    if kind == "scaled":
        footprint = np.maximum(1, np.linalg.norm(jacobian, axis=-1))
        assert (footprint[0] > 1).all()
        assert (footprint[1] == 1).all()
    else:
        footprint = 0.25 * (np.einsum("...ik,...jk->...ij", jacobian, jacobian) + np.eye(2))
    options = {"mode": "cubic", "padding_mode": "border", "align_corners": align, "coords": coords}
    sampling = resolve("cubic", "border", align, coords, "right", 1, False)
    expected, covered = backend_of({"image": image}).footprint_sample(image, grid, footprint, sampling, True, None)
    found, mask = pystn.grid_sample(image, grid, antialias=kind, return_mask=True, **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mask, covered, rtol=0, atol=1e-12)


def test_levels_that_are_not_there(rng):
    image, grid = image_of(rng, 2), rng.uniform(-1, 1, (2, 3, 4, 2))
    np.testing.assert_array_equal(
        pystn.grid_sample(image, grid, antialias=pystn.MipMap(levels=0)), pystn.grid_sample(image, grid)
    )
    every = pystn.grid_sample(image, 50 * grid, "nearest", "border", antialias="mipmap")
    np.testing.assert_allclose(every, np.broadcast_to(every[..., :1, :1], every.shape), rtol=1e-12)  # one pixel is left
    np.testing.assert_array_equal(
        pystn.grid_sample(image, 50 * grid, antialias=pystn.MipMap(99), padding_mode="border", mode="nearest"), every
    )


# ---- peers


def test_supersampled_shrinking_is_average_pooling(rng):
    torch = pytest.importorskip("torch")
    image = rng.standard_normal((2, 3, 6, 9))
    expected = torch.nn.functional.avg_pool2d(torch.tensor(image), 3).numpy()
    identity = np.eye(2, 3)[None]
    options = {"mode": "nearest", "antialias": pystn.Supersampling(3)}
    np.testing.assert_allclose(pystn.warp_affine(image, identity, (2, 3), **options), expected, rtol=0, atol=1e-14)
    grid = pystn.affine_grid(identity, (2, 3))
    np.testing.assert_allclose(pystn.grid_sample(image, grid, **options), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_mip_maps_of_half_the_size_are_average_pooling(ndim, rng):
    torch = pytest.importorskip("torch")
    image = rng.standard_normal((2, 3, *(4, 6, 8)[3 - ndim :]))
    pool = getattr(torch.nn.functional, f"avg_pool{ndim}d")
    expected = pool(torch.tensor(image), 2).numpy()
    found = pystn.warp_affine(image, np.eye(ndim, ndim + 1)[None], expected.shape[2:], antialias="mipmap")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("theirs, ours", [("bilinear", "linear"), ("bicubic", pystn.Cubic(a=-0.5))])
def test_scaled_kernels_are_those_of_resizing(theirs, ours, rng):
    """Where no tap is outside: PyTorch leaves those out and divides by what is left."""
    torch = pytest.importorskip("torch")
    image = rng.standard_normal((2, 3, 24, 35))
    resize = torch.nn.functional.interpolate
    expected = resize(torch.tensor(image), (8, 14), mode=theirs, antialias=True, align_corners=False).numpy()
    found = pystn.warp_affine(image, np.eye(2, 3)[None], (8, 14), ours, antialias="scaled")
    inside = (..., slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(found[inside], expected[inside], rtol=0, atol=1e-12)
    assert np.abs(found - expected).max() > 1e-3


def test_a_round_footprint_is_a_gaussian_filter(rng):
    scipy = pytest.importorskip("scipy.ndimage")
    image = rng.standard_normal((48, 60))
    found = pystn.warp_affine(image[None, None], np.eye(2, 3)[None], (12, 15), antialias="ewa")[0, 0]
    smooth = scipy.gaussian_filter(image, np.sqrt(0.25 * (16 + 1)), truncate=6)
    middles = smooth.reshape(12, 4, 15, 4)[:, 1:3, :, 1:3].mean(axis=(1, 3))
    # Ours ends at three standard deviations, and is not averaged over the pixels next to the middle.
    assert np.abs(found - middles)[2:-2, 2:-2].max() < 0.25 * middles.std()


# ---- derivatives

CALLS = [
    ("grid_sample", 1, {}),
    ("grid_sample", 2, {"align_corners": True}),
    ("grid_sample", 2, {"channel_axis": -1, "coords": "pixel"}),
    ("grid_sample", 3, {}),
    ("warp_affine", 1, {"align_corners": True}),
    ("warp_affine", 2, {"channel_axis": -1}),
    ("warp_affine", 3, {"coords": "pixel"}),
    ("warp_projective", 2, {}),
]


def drawn(rng, name, ndim, options, batches=(2, 2)):
    """The image and the source of the coordinates, and all options."""
    image, theta = image_of(rng, ndim, batches[0]), matrices_of(rng, ndim, batches[1])
    size = size_of(ndim)
    if options.get("channel_axis") == -1:
        image = np.moveaxis(image, 1, -1).copy()
    pixels = options.get("coords") == "pixel"
    if name == "grid_sample":
        grid = pystn.affine_grid(theta, size) + rng.uniform(-0.05, 0.05, (len(theta), *size, ndim))
        return image, (4 * grid + 4 if pixels else grid), {**options}
    if pixels:
        theta = 2.5 * theta
        theta[..., -1] += 2
    return image, projective(theta) if name == "warp_projective" else theta, {**options, "size": size}


@pytest.mark.parametrize("name, ndim, options", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind, name, ndim, options, rng):
    image, source, options = drawn(rng, name, ndim, {"mode": "cubic", **options})
    f, f_vjp, f_jvp, f_vjp2 = functions(name)
    options["antialias"] = kind
    output = f(image, source, **options)
    u = rng.standard_normal(output.shape)
    tangents, others = ([rng.standard_normal(a.shape) for a in (image, source)] for _ in range(2))
    pushed = f_jvp(image, source, *tangents, **options)
    assert_close(pushed, difference(lambda *p: f(*p, **options), (image, source), tangents, 1e-6))
    assert_adjoint(pushed, u, f_vjp(u, image, source, **options), tangents)
    assert_second_order(
        lambda u, *p: f_vjp(u, *p, **options),
        lambda *a: f_vjp2(*a, **options),
        u,
        (image, source),
        tangents,
        others,
        tolerance=1e-5,
    )


@pytest.mark.parametrize("batches", [(1, 2), (2, 1)])
@pytest.mark.parametrize("name", ["grid_sample", "warp_affine", "warp_projective"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_batch_shares_has_the_sum_of_its_gradients(kind, name, batches, rng):
    image, source, options = drawn(rng, name, 2, {"mode": "cubic"}, batches)
    _, f_vjp, f_jvp, f_vjp2 = functions(name)
    options["antialias"] = kind
    d_image, d_source = rng.standard_normal(image.shape), rng.standard_normal(source.shape)
    pushed = f_jvp(image, source, d_image, d_source, **options)
    u = rng.standard_normal(pushed.shape)
    whole = [np.broadcast_to(a, (2, *a.shape[1:])).copy() for a in (image, source)]
    sums = f_vjp(u, image, source, **options)
    assert_adjoint(pushed, u, sums, (d_image, d_source))
    for found, each in zip(sums, f_vjp(u, *whole, **options), strict=True):
        assert_close(found, each if len(found) == 2 else each.sum(axis=0, keepdims=True), 1e-12)
    seconds = f_vjp2(d_image, d_source, u, image, source, **options)[1:]
    repeated = [np.broadcast_to(d, a.shape).copy() for d, a in zip((d_image, d_source), whole, strict=True)]
    for found, each in zip(seconds, f_vjp2(*repeated, u, *whole, **options)[1:], strict=True):
        assert_close(found, each if len(found) == 2 else each.sum(axis=0, keepdims=True), 1e-12)


@pytest.mark.parametrize("kind", [pystn.MipMap, pystn.Scaled, pystn.Elliptical])
@pytest.mark.parametrize("name", ["grid_sample", "warp_projective"])
def test_a_footprint_held_constant_has_no_part_in_gradients(kind, name, rng):
    """Along a shift of all samples, which changes no distance between them, both are the same; along others not."""
    image, source, options = drawn(rng, name, 2, {"mode": "cubic"})
    _, f_vjp, f_jvp, f_vjp2 = functions(name)
    shift = np.ones_like(source) if name == "grid_sample" else source * 0 + np.eye(3)[2] * np.array([1, 1, 0])[:, None]
    held, free = ({**options, "antialias": kind(detach=detach)} for detach in (True, False))
    if name == "grid_sample":
        found = f_jvp(image, source, None, shift, **held)
        assert_close(found, f_jvp(image, source, None, shift, **free), 1e-12)
    d = [rng.standard_normal(a.shape) for a in (image, source)]
    pushed = f_jvp(image, source, *d, **held)
    assert np.abs(pushed - f_jvp(image, source, *d, **free)).max() > 1e-3
    u = rng.standard_normal(pushed.shape)
    assert_adjoint(pushed, u, f_vjp(u, image, source, **held), d)
    # To the cotangent and the image the second order is that of the first.
    to_u, to_image, _ = f_vjp2(*d, u, image, source, **held)
    assert_close(to_u, pushed, 1e-12)
    moved = difference(lambda i: f_vjp(u, i, source, **held)[1], [image], [np.cos(image)])
    np.testing.assert_allclose((to_image * np.cos(image)).sum(), (moved * d[1]).sum(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["supersample", "mipmap"])
def test_gradients_of_fill_value_and_kernel(kind, rng):
    image, grid, _ = drawn(rng, "grid_sample", 2, {})
    grid, u = 1.5 * grid, rng.standard_normal((2, 2, 3, 4))
    options = {"padding_mode": "constant", "antialias": kind}

    def value(fill, sigma):
        return pystn.grid_sample(image, grid, pystn.Gaussian(float(sigma)), fill_value=fill, **options)

    fill, sigma, d_fill = np.array([0.5, -1.0]), np.array(0.7), np.array([1.0, 2.0])
    *_, to_fill, to_sigma = pystn.grid_sample_vjp(
        u, image, grid, pystn.Gaussian(0.7), fill_value=fill, wrt=("fill_value", "kernel"), **options
    )
    assert_close((to_fill * d_fill).sum(), (u * difference(value, (fill, sigma), (d_fill, None))).sum())
    assert_close(to_sigma, (u * difference(value, (fill, sigma), (None, 1.0))).sum())
    pushed = pystn.grid_sample_jvp(
        image, grid, None, None, pystn.Gaussian(0.7), fill_value=fill, d_fill_value=d_fill, d_kernel=2.0, **options
    )
    assert_close(pushed, difference(value, (fill, sigma), (d_fill, 2.0)))


@pytest.mark.parametrize("kind", ["scaled", "ewa"])
def test_footprints_have_no_gradients_of_fill_value_and_kernel(kind, rng):
    image, grid, _ = drawn(rng, "grid_sample", 2, {"antialias": kind, "padding_mode": "constant"})
    for options in ({"fill_value": 1.0, "wrt": "fill_value"}, {"mode": "cubic", "wrt": "kernel"}):
        with pytest.raises(NotImplementedError, match="no derivatives with antialias 'scaled' and 'ewa'"):
            pystn.grid_sample_vjp(np.ones((2, 2, 3, 4)), image, grid, antialias=kind, **options)
    with pytest.raises(NotImplementedError, match="no derivatives with antialias 'scaled' and 'ewa'"):
        pystn.grid_sample_jvp(image, grid, None, None, antialias=kind, d_fill_value=1.0)


# ---- ways to say the same


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_warp_is_its_grid_and_the_sampler(kind, ndim, rng):
    image, theta = image_of(rng, ndim, 1), matrices_of(rng, ndim)
    size, options = size_of(ndim), {"antialias": kind, "cutoff": "center", "return_mask": True}
    grid = pystn.affine_grid(theta, size)
    for found, expected in zip(
        pystn.warp_affine(image, theta, size, **options), pystn.grid_sample(image, grid, **options), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    u, options["return_mask"] = rng.standard_normal((2, 2, *size)), False
    to_image, to_grid = pystn.grid_sample_vjp(u, image, grid, **options)
    gradients = [to_image, *pystn.affine_grid_vjp(to_grid, theta, size)]
    for found, expected in zip(pystn.warp_affine_vjp(u, image, theta, size, **options), gradients, strict=True):
        assert_close(found, expected, 1e-12)
    if ndim == 2:
        flat = np.concatenate([theta, np.broadcast_to([0.0, 0.0, 1.0], (2, 1, 3))], axis=1)
        found, to_flat = pystn.warp_projective_vjp(u, image, flat, size, **options)
        assert_close(found, gradients[0], 1e-12)
        assert_close(to_flat[:, :2], gradients[1], 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_several_matrices_for_each_image(kind, rng):
    image, theta = image_of(rng, 2), matrices_of(rng, 2, 6).reshape(2, 3, 2, 3)
    u, options = rng.standard_normal((2, 2, 3, 3, 4)), {"antialias": kind, "mode": "cubic"}
    found = pystn.warp_affine(image, theta, (3, 4), **options)
    to_image, to_theta = pystn.warp_affine_vjp(u, image, theta, (3, 4), **options)
    total = 0
    for k in range(3):
        np.testing.assert_allclose(
            found[:, :, k], pystn.warp_affine(image, theta[:, k], (3, 4), **options), rtol=0, atol=1e-13
        )
        one, other = pystn.warp_affine_vjp(u[:, :, k], image, theta[:, k], (3, 4), **options)
        total = total + one
        assert_close(to_theta[:, k], other, 1e-12)
    assert_close(to_image, total, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_to_write_into(kind, rng):
    image, grid, _ = drawn(rng, "grid_sample", 2, {})
    u, options = rng.standard_normal((2, 2, 3, 4)), {"antialias": kind}
    out = np.empty((2, 3, 4, 2)).transpose(0, 3, 1, 2)
    assert pystn.grid_sample(image, grid, out=out, **options) is out
    np.testing.assert_array_equal(out, pystn.grid_sample(image, grid, **options))
    assert pystn.grid_sample_jvp(image, grid, image, grid, out=out, **options) is out
    np.testing.assert_array_equal(out, pystn.grid_sample_jvp(image, grid, image, grid, **options))
    outs = (np.empty_like(image), np.empty_like(grid))
    found = pystn.grid_sample_vjp(u, image, grid, out=outs, **options)
    for a, b, c in zip(found, outs, pystn.grid_sample_vjp(u, image, grid, **options), strict=True):
        assert a is b
        np.testing.assert_array_equal(a, c)
    assert pystn.grid_sample_vjp(u, image, grid, wrt="grid", **options)[0] is None


# ---- dtypes, and what is outside


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "complex64"])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_rounded_once(kind, dtype, rng):
    image = (100 * rng.random((2, 2, 7, 9))).astype(dtype)
    if dtype == "complex64":
        image = image + 1j * image[::-1]
    wide = image.astype(np.complex128 if dtype == "complex64" else np.float64)
    grid = pystn.affine_grid(matrices_of(rng, 2), (3, 4))
    expected = pystn.grid_sample(wide, grid, antialias=kind)
    found = pystn.grid_sample(image, grid, antialias=kind)
    assert found.dtype == image.dtype
    if image.dtype.kind in "iu":
        near_a_tie = np.abs(expected - np.floor(expected) - 0.5) < 1e-4
        np.testing.assert_array_equal(found[~near_a_tie], np.rint(expected)[~near_a_tie])
    else:
        np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(image.dtype).eps)
    tangent = np.dtype(np.float32) if image.dtype.kind in "iu" else image.dtype
    u, d_grid = rng.standard_normal(found.shape).astype(tangent), rng.standard_normal(grid.shape)
    gradients = pystn.grid_sample_vjp(u, image, grid, antialias=kind)
    assert [g.dtype for g in gradients] == [tangent, grid.dtype]
    exact = pystn.grid_sample_vjp(u.astype(wide.dtype), wide, grid, antialias=kind)
    for a, b in zip(gradients, exact, strict=True):
        assert_close(a, b, 2e-3 if dtype == "float16" else 1e-5)
    pushed = pystn.grid_sample_jvp(image, grid, None, d_grid, antialias=kind)
    assert pushed.dtype == tangent
    assert_close(pushed, pystn.grid_sample_jvp(wide, grid, None, d_grid, antialias=kind), 2e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_a_coordinate_that_is_no_number_is_outside_alone(kind, bad, rng):
    image, grid, _ = drawn(rng, "grid_sample", 2, {})
    whole = pystn.grid_sample(image, grid, antialias=kind)
    grid[0, 1, 2] = bad
    found = pystn.grid_sample(image, grid, fill_value=7.0, padding_mode="zeros", antialias=kind)
    assert (found[0, :, 1, 2] == 7.0).all()
    assert np.isfinite(found).all()
    beside = np.zeros((2, 3, 4), bool)
    beside[0, 1], beside[0, :, 2] = True, True
    np.testing.assert_array_equal(np.moveaxis(found, 1, -1)[~beside], np.moveaxis(whole, 1, -1)[~beside])
    u = rng.standard_normal(found.shape)
    to_image, to_grid = pystn.grid_sample_vjp(u, image, grid, antialias=kind)
    assert np.isfinite(to_image).all()
    assert np.isfinite(to_grid).all()
    assert (to_grid[0, 1, 2] == 0).all()
    d_grid = rng.standard_normal(grid.shape)
    pushed = pystn.grid_sample_jvp(image, grid, None, d_grid, antialias=kind)
    assert_adjoint(pushed, u, [to_grid], [d_grid])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_at_the_horizon_is_outside(kind, rng):
    image, theta = image_of(rng, 2), projective(matrices_of(rng, 2))
    theta[0, 2] = 0.0
    options = {"antialias": kind, "fill_value": 7.0, "mode": "cubic"}
    found = pystn.warp_projective(image, theta, (3, 4), **options)
    assert (found[0] == 7.0).all()
    assert np.isfinite(found).all()
    u = rng.standard_normal(found.shape)
    to_image, to_theta = pystn.warp_projective_vjp(u, image, theta, (3, 4), **options)
    assert not to_image[0].any()
    assert not to_theta[0].any()
    assert to_theta[1].any()
    seconds = pystn.warp_projective_vjp2(image, theta, u, image, theta, (3, 4), **options)
    assert all((second[0] == 0).all() and np.isfinite(second).all() for second in seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_samples_are_those_of_the_image(kind):
    image, x = np.ones((1, 1, 5)), np.linspace(-3, 7, 11)[None, :, None]
    output, mask = pystn.grid_sample(
        image,
        x,
        cutoff="center",
        fill_value=-1.0,
        padding_mode="border",
        coords="pixel",
        antialias=kind,
        return_mask=True,
    )
    inside = (x[0, :, 0] >= 0) & (x[0, :, 0] <= 4)
    if kind == "supersample":  # of the outermost centres the one half is beyond
        ends = np.isin(x[0, :, 0], (0, 4))
        np.testing.assert_array_equal(output[0, 0, ends], 0.0)
        np.testing.assert_array_equal(mask[0, ends], 0.5)
        inside, output, mask = inside[~ends], output[..., ~ends], mask[:, ~ends]
    np.testing.assert_allclose(output[0, 0], np.where(inside, 1.0, -1.0), rtol=1e-14)
    np.testing.assert_array_equal(mask[0] > 0, inside)


def test_no_samples(rng):
    for kind in KINDS:
        image, grid = image_of(rng, 2), np.empty((2, 0, 4, 2))
        assert pystn.grid_sample(image, grid, antialias=kind).shape == (2, 2, 0, 4)
        to_image, to_grid = pystn.grid_sample_vjp(np.empty((2, 2, 0, 4)), image, grid, antialias=kind)
        assert not to_image.any()
        assert to_grid.shape == grid.shape
        theta = matrices_of(rng, 2)
        _, to_theta = pystn.warp_affine_vjp(np.empty((2, 2, 0, 4)), image, theta, (0, 4), antialias=kind)
        assert not to_theta.any()


# ---- other backends and frameworks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["grid_sample", "warp_affine", "warp_projective"])
def test_backends_agree(backend, kind, name, rng):
    image, source, options = drawn(rng, name, 2, {"mode": "linear"})
    f, f_vjp, f_jvp, f_vjp2 = functions(name)
    options["antialias"] = kind
    u = rng.standard_normal((2, 2, 3, 4))
    d = [np.cos(image), np.cos(source)]

    def found(array):
        i, s, v, di, ds = (array(a) for a in (image, source, u, *d))
        seconds = f_vjp2(di, ds, v, i, s, **options)
        return f(i, s, **options), *f_vjp(v, i, s, **options), f_jvp(i, s, di, ds, **options), *seconds

    for ours, theirs in zip(found(backend.array), found(np.asarray), strict=True):
        assert_close(backend.numpy(ours), theirs, 1e-12)


# ---- objects and errors


def test_objects_are_values():
    assert pystn.MipMap(levels=np.int64(3)) == pystn.MipMap(3)
    assert hash(pystn.Supersampling(2)) == hash(pystn.Supersampling())
    assert pystn.Scaled() != pystn.Scaled(detach=True)
    for wrong in (
        lambda: pystn.Supersampling(1.5),
        lambda: pystn.Supersampling(True),
        lambda: pystn.MipMap(2.0),
        lambda: pystn.MipMap(detach=1),
        lambda: pystn.Scaled(detach="yes"),
        lambda: pystn.Elliptical(detach=None),
    ):
        with pytest.raises(TypeError, match="must be"):
            wrong()
    for wrong in (lambda: pystn.Supersampling(0), lambda: pystn.MipMap(-1)):
        with pytest.raises(ValueError, match="or more"):
            wrong()


@pytest.mark.parametrize("name", ["grid_sample", "warp_affine", "warp_projective"])
def test_what_it_can_be(name, rng):
    image, source, options = drawn(rng, name, 2, {})
    f = getattr(pystn, name)
    with pytest.raises(ValueError, match=r"unknown antialias: expected None, one of 'supersample', 'mipmap'.*'area'"):
        f(image, source, antialias="area", **options)
    for wrong in (True, 2, pystn.Linear(), pystn.antialiasing.AntiAliasing()):
        with pytest.raises(TypeError, match="unknown antialias"):
            f(image, source, antialias=wrong, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_points_has_no_neighbours(kind, rng):
    image, points = image_of(rng, 2), rng.uniform(-1, 1, (2, 5, 2))
    for call in (
        lambda: pystn.grid_sample(image, points, antialias=kind),
        lambda: pystn.grid_sample_vjp(image, image, points, antialias=kind),
        lambda: pystn.grid_sample_jvp(image, points, image, None, antialias=kind),
    ):
        with pytest.raises(ValueError, match=r"neighbours of a sample: expected grid of shape \(N, ..., H, W, 2\)"):
            call()
