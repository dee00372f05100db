"""pystn on torch tensors in what is compiled and exported: the same results, and never a derivative lost in silence."""

import io
import json
import shutil

import pytest

torch = pytest.importorskip("torch", reason="the adapter of PyTorch needs it")

from operations import CASES  # noqa: E402
from torch._dynamo.exc import Unsupported  # noqa: E402
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402
from torch_cases import FILTERS, Problem, listed, selected  # noqa: E402

import pystn  # noqa: E402
import pystn.torch as stn  # noqa: E402

pytestmark = [pytest.mark.filterwarnings(words) for words in FILTERS]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(f, backend="aot_eager", fullgraph=True, **options):
    return torch.compile(f, backend=backend, fullgraph=fullgraph, **options)


def total(outputs):
    return sum((output**2).sum() for output in listed(outputs))


def with_gradients(f, tensors):
    tensors = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in tensors]
    outputs = listed(f(*tensors))
    differentiable = [t for t in tensors if t.requires_grad]
    return [o.detach() for o in outputs], list(torch.autograd.grad(total(outputs), differentiable))


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# One of every way that arguments take into an operator; the rest of the table is the same code.
NAMES = [
    "grid_sample-2d",
    "grid_sample-mask",
    "grid_sample-fill",
    "grid_sample-sigma",
    "grid_sample-table",
    "normalized_grid_sample-all",
    "brier_score",
    "grid_gradient",
    "grid_push-3d",
    "grid_count",
    "spline_filter",
    "warp_affine-shared",
    "warp_project-max",
    "affine_grid-full",
    "linear_grid",
    "compose-left",
    "lie_generator-se2",
    "thin-plate-targets",
    "piecewise-affine",
    "cpab-2d",
    "velocity-2d",
    "free-form-linear",
]


def named(name):
    return Problem(next(case for case in CASES if case.name == name))


@pytest.mark.parametrize("name", NAMES)
def test_compiled_forward_and_backward_are_the_same(name):
    problem = named(name)
    given = problem.tensors()
    assert_same(with_gradients(compiled(problem.__call__), given), with_gradients(problem, given))


KERNELS = [
    "linear",
    "nearest",
    pystn.Nearest(ties="up"),
    pystn.Cubic(a=-0.5),
    pystn.BSpline(3, prefilter=True),
    pystn.Lanczos(3),
    pystn.Gaussian(0.8),
    pystn.Tabulated((0.0, 0.3, 0.8, 0.4, 0.0), 1.5),
    ("cubic", pystn.Lanczos(2)),
]


@pytest.mark.parametrize("mode", KERNELS, ids=str)
def test_kernels_are_compiled(mode):
    image, grid = named("grid_sample-2d").tensors()

    def f(image, grid):
        return stn.grid_sample(image, grid, mode, "constant", fill_value=(0.5, -1.0))

    assert_same(with_gradients(compiled(f), [image, grid]), with_gradients(f, [image, grid]))


@pytest.mark.parametrize("antialias", ["supersample", pystn.MipMap(levels=2, detach=True)], ids=str)
def test_antialiasing_is_compiled(antialias):
    image, grid = named("grid_sample-2d").tensors()

    def f(image, grid):
        return stn.grid_sample(image, grid, antialias=antialias)

    assert_same(with_gradients(compiled(f), [image, grid]), with_gradients(f, [image, grid]))


def test_complex_fill_values_and_images_are_compiled():
    image, grid = named("grid_sample-2d").tensors(requires_grad=False)
    image = torch.complex(image, image.flip(0)).requires_grad_()

    def f(image):
        return stn.grid_sample(image, grid, padding_mode="constant", fill_value=0.5 - 2j)

    found, expected = compiled(f)(image), f(image)
    assert_same(found, expected)
    assert_same(*[torch.autograd.grad(o.abs().sum(), image)[0] for o in (found, expected)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_images_of_other_dtypes_are_compiled(dtype):
    image = (100 * torch.rand(1, 2, 6, 6)).to(dtype)
    theta = torch.eye(2, 3)[None].add(0.1).requires_grad_()

    def f(theta):
        return stn.warp_affine(image, theta, (5, 5), return_mask=True)

    (found, mask), (expected, expected_mask) = compiled(f)(theta), f(theta)
    assert found.dtype == dtype
    assert found.requires_grad == expected.requires_grad
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert_same(*[torch.autograd.grad(m.float().sum(), theta)[0] for m in (mask, expected_mask)])


def test_what_is_compiled_is_one_graph_whatever_the_size():
    spline = pystn.ThinPlateSpline(pystn.control_points((3, 3)), (6, 5))
    theta = torch.from_numpy(spline.identity(2)).float()

    def f(image, theta):
        size = (image.shape[2] - 2, image.shape[3])
        warped = stn.warp_affine(image, torch.eye(2, 3).expand(image.shape[0], -1, -1), size, "cubic")
        return warped.sum() * stn.grid_sample(image, stn.apply(spline, theta)).relu()

    counter = CompileCounterWithBackend("aot_eager")
    run = compiled(f, counter)
    for height, width in [(8, 9), (10, 12), (11, 7), (5, 6), (13, 14)]:
        image = torch.rand(2, 3, height, width)
        assert_same(with_gradients(run, [image, theta]), with_gradients(f, [image, theta]))
    assert counter.frame_count <= 2  # the second for sizes that change


def test_another_option_is_another_graph():
    image, grid = named("grid_sample-2d").tensors()
    run = compiled(lambda image, grid, mode: stn.grid_sample(image, grid, mode))
    for mode in ("linear", "cubic", *map(pystn.Gaussian, (0.7, 0.8, 0.9)), *map(pystn.Lanczos, (2, 3, 4)), "linear"):
        assert_same(run(image, grid, mode), stn.grid_sample(image, grid, mode))
    run = compiled(lambda image, grid, value: stn.grid_sample(image, 2 * grid, "linear", "constant", fill_value=value))
    for value in (0.0, 0.25, 0.5, 2, 3, (0.1, 0.2), (0.1, 0.3)):
        expected = stn.grid_sample(image, 2 * grid, "linear", "constant", fill_value=value)
        assert_same(run(image, grid, value), expected)


def test_another_family_is_another_graph():
    families = [pystn.Polynomial((4, 5), degree) for degree in (1, 2)] + [pystn.FreeFormDeformation((4, 4), (4, 5))]
    run = compiled(lambda family, theta: stn.apply(family, theta))
    for family in families * 2:
        theta = torch.from_numpy(family.identity(2)).add(0.05)
        assert_same(run(family, theta), stn.apply(family, theta))


def test_vmap_is_compiled():
    images, thetas = torch.rand(4, 2, 6, 6, dtype=torch.float64), torch.eye(2, 3, dtype=torch.float64).repeat(4, 1, 1)

    def f(images, thetas):
        return torch.vmap(lambda i, t: stn.warp_affine(i[None], t[None], (5, 4))[0])(images, thetas + 0.1)

    assert_same(with_gradients(compiled(f), [images, thetas]), with_gradients(f, [images, thetas]))


def test_deterministic_algorithms_are_compiled(monkeypatch):
    asked = []
    operation = pystn.ops.OPERATIONS["grid_sample"]

    def spy(*arrays, **options):
        asked.append(options.get("deterministic"))
        return pystn.grid_sample(*arrays, **options)

    monkeypatch.setitem(vars(operation), "forward", spy)
    image, grid = named("grid_sample-2d").tensors(requires_grad=False)
    run = compiled(lambda i, g: stn.grid_sample(i, g))
    run(image, grid)
    torch.use_deterministic_algorithms(True)
    try:
        run(image, grid)
    finally:
        torch.use_deterministic_algorithms(False)
    assert asked == [None, True]


def test_autocast_is_compiled():
    linear, image = torch.nn.Linear(36, 6), torch.rand(2, 1, 6, 6)

    def f(image):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return stn.warp_affine(image, linear(image.flatten(1)).reshape(-1, 2, 3), (6, 6))

    torch.testing.assert_close(compiled(f)(image), f(image))


def test_errors_are_those_of_a_call():
    with pytest.raises(Exception, match="no argument 'interpolation'"):
        compiled(lambda i, g: stn.grid_sample(i, g, interpolation="linear"))(
            torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 2)
        )
    image, grid = named("grid_sample-2d").tensors(requires_grad=False)
    with pytest.raises(Exception, match="quintic"):
        compiled(lambda i, g: stn.grid_sample(i, g, "quintic"))(image, grid)


# ---- derivatives inside of what is compiled, and of it

THETA = torch.eye(2, 3, dtype=torch.float64)[None] + 0.1


def grid_of(theta):
    return stn.affine_grid(theta, (3, 4)).sin()


def dual(theta):
    with torch.autograd.forward_ad.dual_level():
        moved = torch.autograd.forward_ad.make_dual(theta, torch.ones_like(theta))
        return torch.autograd.forward_ad.unpack_dual(grid_of(moved)).tangent


TRANSFORMS = {
    "jvp": lambda theta: torch.func.jvp(grid_of, (theta,), (torch.ones_like(theta),))[1],
    "jacfwd": torch.func.jacfwd(grid_of),
    "jacrev": torch.func.jacrev(grid_of),
    "grad": torch.func.grad(lambda theta: grid_of(theta).sum()),
    "vjp": lambda theta: torch.func.vjp(grid_of, theta)[1](torch.ones(1, 3, 4, 2, dtype=torch.float64))[0],
    "hessian": torch.func.hessian(lambda theta: grid_of(theta).sum()),
    "dual": dual,
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_derivatives_inside_are_right_or_refused(name):
    f = TRANSFORMS[name]
    expected = f(THETA)
    assert expected.abs().max() > 0
    assert_same(compiled(f, fullgraph=False)(THETA), expected)  # with a break of the graph
    torch._dynamo.reset()
    with pytest.raises(Unsupported, match=r"operators have no derivatives inside torch\.func"):
        compiled(f)(THETA)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_tangents_of_what_was_compiled_are_right_or_refused(warm, requires_grad):
    """The graph that a first call left behind knows nothing of tangents."""
    theta = THETA.clone().requires_grad_(requires_grad)
    run = compiled(grid_of, fullgraph=False)
    if warm:
        run(theta)
    with torch.autograd.forward_ad.dual_level():
        moved = torch.autograd.forward_ad.make_dual(theta, torch.ones_like(theta))
        expected = torch.autograd.forward_ad.unpack_dual(grid_of(moved)).tangent
        if warm or requires_grad:  # of what has both, torch compiles nothing
            with pytest.raises(NotImplementedError, match=r"no forward mode|forward mode AD"):
                run(moved)
        else:
            assert_same(torch.autograd.forward_ad.unpack_dual(run(moved)).tangent, expected)


@pytest.mark.parametrize("transform", [torch.func.jacfwd, torch.func.jacrev], ids=["jacfwd", "jacrev"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_transforms_of_what_was_compiled_are_right(transform, warm):
    run = compiled(grid_of, fullgraph=False)
    if warm:
        run(THETA)
    assert_same(transform(run)(THETA), transform(grid_of)(THETA))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_second_order_of_what_was_compiled_is_refused(backend):
    """Torch has none either with aot_eager, in its own words."""
    theta = THETA.clone().requires_grad_()
    loss = compiled(grid_of, backend)(theta).sum()
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError), match=r"of the first order|support double backward"):
        torch.autograd.grad(gradient.sum(), theta)


# ---- other compilers of the graph


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor():
    problem = named("warp_affine-shared")

    def f(*tensors):
        return [output.sin() * 2 for output in problem(*tensors)]

    given = problem.tensors()
    assert_same(with_gradients(compiled(f, "inductor"), given), with_gradients(f, given))


class Localised(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 6)
        self.spline = pystn.ThinPlateSpline(pystn.control_points((3, 3)), (6, 5))
        self.theta = torch.nn.Parameter(torch.from_numpy(self.spline.identity()).float())

    def forward(self, image):
        theta = self.linear(image.flatten(1)).reshape(-1, 2, 3)
        warped = stn.warp_affine(image, theta, image.shape[-2:], pystn.Cubic(-0.5), padding_mode="border")
        values, mask = stn.grid_sample(warped, stn.apply(self.spline, self.theta), return_mask=True)
        return values, mask


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_exported_programs_are_saved_loaded_and_run(strict):
    network = Localised()
    sizes = {"image": {0: torch.export.Dim("batch", min=2, max=64)}}
    program = torch.export.export(network, (torch.rand(4, 1, 8, 8),), dynamic_shapes=sizes, strict=strict)
    called = [str(node.target) for node in program.graph.nodes if "pystn" in str(node.target)]
    assert called == ["pystn.warp_affine.default", "pystn.family.default", "pystn.grid_sample.default"]
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for batch in (2, 7):
        image = torch.rand(batch, 1, 8, 8)
        for found, expected in zip(loaded(image), network(image), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_exported_sizes_may_change():
    class Halved(torch.nn.Module):
        def forward(self, image):
            theta = torch.eye(2, 3).expand(image.shape[0], -1, -1)
            return stn.warp_affine(image, theta, (image.shape[2] // 2, image.shape[3]))

    height = torch.export.Dim("half", min=2, max=32)
    program = torch.export.export(Halved(), (torch.rand(2, 1, 8, 8),), dynamic_shapes={"image": {2: 2 * height}})
    for n in (8, 12, 20):
        image = torch.rand(2, 1, n, 8)
        torch.testing.assert_close(program.module()(image), Halved()(image))


# ---- the operators themselves


def written(problem, given):
    """The arguments of its operator, as a compiler gives them."""
    seen = []
    library = stn.library

    class Spy(dict):
        def __getitem__(self, name):
            def operator(*arguments):
                seen.append((name, arguments))
                return library_operators[name](*arguments)

            return operator

    library_operators = library.OPERATORS
    library.OPERATORS = Spy()
    try:
        options = problem.options(given)
        call, tensors = pystn.calls.bind(
            problem.operation, given[: problem.count], options, lambda value: isinstance(value, torch.Tensor)
        )
        library.call_operator(problem.case.f, call, tensors)
    finally:
        library.OPERATORS = library_operators
    ((name, arguments),) = seen
    return getattr(torch.ops.pystn, name).default, arguments


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    problem = named(name)
    given = problem.tensors()
    operator, arguments = written(problem, given)
    expected = listed(problem(*given))
    assert_same(operator(*arguments), expected)
    torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("case", **selected())
def test_every_call_is_written_down_and_read_again(case):
    problem = Problem(case)
    given = problem.tensors(requires_grad=False)
    operator, (tensors, options, size) = written(problem, given)
    assert json.loads(options)["given"] == [] or case.arrays
    for found, expected in zip(operator(tensors, options, size), listed(problem(*given)), strict=True):
        assert torch.equal(found, expected)
    imagined = operator([t.to("meta") for t in tensors], options, size)
    assert [(t.shape, t.dtype) for t in imagined] == [(t.shape, t.dtype) for t in listed(problem(*given))]


def test_opcheck_of_derivatives():
    problem = named("grid_sample-2d")
    image, grid = problem.tensors(requires_grad=False)
    _, (_, options, size) = written(problem, [image, grid])
    cotangent = torch.rand(2, 2, 3, 4, dtype=torch.float64)
    for wanted in ([True, True], [False, True]):
        torch.library.opcheck(
            torch.ops.pystn.grid_sample_vjp.default, ([cotangent], [image, grid], options, size, wanted)
        )
