"""The spatial transformer as a module of torch."""

import numpy as np
import pytest
from system_cases import BY_MATRICES, WINDOW

import pystn

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from pystn.torch import SpatialTransformer, apply, initialize_identity_, initialize_params_  # noqa: E402

SIZES = {1: (9,), 2: (7, 8), 3: (4, 5, 6)}
SPLINE = pystn.ThinPlateSpline(pystn.control_points((3, 3)), SIZES[2], True)


def image(ndim, batch=2):
    torch.manual_seed(0)
    return torch.rand(batch, 3, *SIZES[ndim], dtype=torch.float64)


def identity_parameters(*arguments):
    return torch.from_numpy(pystn.identity_params(*arguments))


def constant(parameters):
    """A localisation network that says the same of every input."""
    return lambda input: parameters.expand(len(input), *parameters.shape)


@pytest.mark.parametrize("transform, ndim", [(t, ndim) for t, ndim in BY_MATRICES if t is not WINDOW], ids=str)
def test_parameters_of_the_identity_move_nothing(transform, ndim):
    parameters = identity_parameters(transform, ndim)
    input = image(ndim)
    output = SpatialTransformer(constant(parameters), transform, padding_mode="border")(input)
    torch.testing.assert_close(output, input, rtol=0, atol=1e-12)
    several = SpatialTransformer(constant(parameters.expand(4, -1)), transform, padding_mode="border")(input)
    torch.testing.assert_close(several, input[:, :, None].expand(-1, -1, 4, *SIZES[ndim]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("transform, ndim", BY_MATRICES, ids=str)
def test_layers_start_at_the_identity_and_learn(transform, ndim):
    torch.manual_seed(1)
    count = identity_parameters(transform, ndim).numel()
    layer = initialize_identity_(torch.nn.Linear(5, 2 * count, dtype=torch.float64), transform, ndim)
    features = torch.rand(3, 5, dtype=torch.float64)
    module = SpatialTransformer(lambda input: layer(features).unflatten(-1, (2, count)), transform, mode="cubic")
    input = image(ndim, 3)
    module(input).square().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    assert torch.isfinite(layer.weight.grad).all()


def test_a_matrix_needs_not_be_flat():
    theta = torch.eye(2, 3, dtype=torch.float64).mul(0.8).add(0.1)
    input = image(2)
    flat = SpatialTransformer(constant(theta.ravel()), size=(5, 4))(input)
    assert flat.shape == (2, 3, 5, 4)
    assert torch.equal(flat, SpatialTransformer(constant(theta), size=(5, 4))(input))
    expected = pystn.warp_affine(input.numpy(), theta.expand(2, 2, 3).numpy(), (5, 4))
    np.testing.assert_array_equal(flat, expected)


def test_families_and_functions_are_generators():
    input, parameters = image(2), identity_parameters(SPLINE)
    for theta in (parameters, parameters.reshape(9, 2)):
        output = SpatialTransformer(constant(theta), SPLINE)(input)
        torch.testing.assert_close(output, input, rtol=0, atol=1e-12)
    moved = parameters + 0.1
    expected = SpatialTransformer(constant(moved), SPLINE, padding_mode="border")(input)

    def grid(theta):
        return apply(SPLINE, theta.unflatten(-1, (9, 2)))

    found = SpatialTransformer(constant(moved), grid, padding_mode="border", align_corners=True)(input)
    assert torch.equal(found, expected)
    layer = initialize_identity_(torch.nn.Linear(2, 18), SPLINE)
    np.testing.assert_allclose(layer(torch.ones(1, 2)).detach()[0], parameters, rtol=1e-6)


def test_channels_last_are_sized_by_their_spatial_axes():
    input = image(2)
    module = SpatialTransformer(constant(identity_parameters()), padding_mode="border", channel_axis=-1)
    torch.testing.assert_close(module(input.movedim(1, -1)), input.movedim(1, -1), rtol=0, atol=1e-12)


def test_a_module_moves_and_is_saved_with_its_network():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 7 * 8, 6))
    module = SpatialTransformer(network, padding_mode="border")
    assert set(module.state_dict()) == {"localization.1.weight", "localization.1.bias"}
    assert "transform='affine'" in repr(module)
    assert "padding_mode='border'" in repr(module)
    assert next(module.double().parameters()).dtype == torch.float64


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: SpatialTransformer(len, "affin"), ValueError, "unknown transform: expected one of 'translation'"),
        (lambda: SpatialTransformer(len, SPLINE, (3, 3)), ValueError, "size must be that of the family"),
        (lambda: SpatialTransformer(len, SPLINE, align_corners=False), ValueError, "align_corners must be that"),
        (lambda: pystn.identity_params("rotation", 1), ValueError, "no transform 'rotation' in 1 dimensions"),
        (lambda: pystn.identity_params("projective", 3), ValueError, "no transform 'projective' in 3 dimensions"),
        (lambda: initialize_identity_(torch.nn.ReLU()), TypeError, "must have a weight and a bias"),
        (lambda: initialize_params_(torch.nn.Linear(2, 7), []), ValueError, "multiple of 0 outputs"),
        (lambda: initialize_identity_(torch.nn.Linear(2, 7)), ValueError, "multiple of 6 outputs, got 7"),
        (lambda: SpatialTransformer(constant(torch.ones(6)), paddding="border"), TypeError, "has no option"),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error, match=words):
        make()
