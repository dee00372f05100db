"""The systems of the adapters: the same outputs, and gradients by their frameworks that are those of `vjp`."""

import copy
import inspect
import pickle
from importlib import import_module

import numpy as np
import pytest
from localizations import Linear, leaves, rebuilt
from system_cases import AFFINE, CASES, FEW, SIM2, SPLINE

import pystn
from pystn.systems.adapted import SYSTEMS

BY_NAME = {case.name: case for case in CASES}
COMPILED = ["mask-parameters", "parallel-mask", "cascade-spline-affine", "hierarchical-matrices", "refining-projective"]


def adapter(name, framework):
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    return import_module(name)


def cotangents(output):
    return [np.cos(np.arange(o.size)).reshape(o.shape) for o in leaves(output)]


def reference(case):
    """Outputs, and gradients to the image, the weights of all networks and a warp to start from."""
    output, pullback = case.build(case.networks()).pull(case.image(), *case.arguments())
    return leaves(output), leaves(pullback(rebuilt(output, iter(cotangents(output)))))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=0, atol=1e-10 * max(1, np.abs(other).max()))


def run(case, module, array, *primals):
    """The outputs of a module's system on its arrays, with weights among these."""
    image, *others = primals
    weights = len(others) - len(case.arguments())
    system = case.build(case.with_weights(others[:weights]), module, array)
    return leaves(system(image, *others[weights:]))


def primals(case):
    return [case.image(), *leaves(case.weights()), *case.arguments()]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torch(case):
    stn, torch = adapter("pystn.torch", "torch"), pytest.importorskip("torch")
    tensors = [torch.tensor(p, requires_grad=True) for p in primals(case)]
    outputs = run(case, stn, torch.tensor, *tensors)
    expected, gradients = reference(case)
    assert_same([o.detach() for o in outputs], expected)
    total = sum((o * torch.from_numpy(g)).sum() for o, g in zip(outputs, cotangents(expected), strict=True))
    assert_same(torch.autograd.grad(total, tensors), gradients)


@pytest.mark.parametrize("name", FEW)
def test_autograd(name):
    stn, case = adapter("pystn.autograd", "autograd"), BY_NAME[name]
    make_vjp = import_module("autograd").make_vjp
    expected, gradients = reference(case)
    given = cotangents(expected)

    def total(arrays):
        return sum((o * g).sum() for o, g in zip(run(case, stn, np.asarray, *arrays), given, strict=True))

    pullback, value = make_vjp(total)(primals(case))
    assert_same([value], [sum((o * g).sum() for o, g in zip(expected, given, strict=True))])
    assert_same(pullback(1.0), gradients)


@pytest.fixture
def jax():
    """JAX in double precision."""
    found = pytest.importorskip("jax", reason="JAX is not installed")
    before = found.config.jax_enable_x64
    found.config.update("jax_enable_x64", True)
    yield found
    found.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("name", COMPILED)
def test_jax_compiled_as_a_whole(jax, name):
    stn, case = adapter("pystn.jax", "jax"), BY_NAME[name]
    expected, gradients = reference(case)
    given = cotangents(expected)

    def total(arrays):
        outputs = run(case, stn, jax.numpy.asarray, *arrays)
        return sum((o * g).sum() for o, g in zip(outputs, given, strict=True)), outputs

    found, outputs = jax.jit(jax.grad(total, has_aux=True))(primals(case))
    assert_same(outputs, expected)
    assert_same(found, gradients)


def test_jax_with_weights_closed_over(jax):
    stn, case = adapter("pystn.jax", "jax"), BY_NAME["refining-frame"]
    system = case.build(
        [network.with_weights(tuple(map(jax.numpy.asarray, network.weights))) for network in case.networks(Linear)],
        stn,
        jax.numpy.asarray,
    )
    plain = case.build(case.networks(Linear))
    image = case.image()
    assert_same([jax.jit(system)(image)], [plain(image)])
    found = jax.jit(jax.grad(lambda image: system(image).sum()))(image)
    assert_same([found], [plain.vjp(np.ones_like(plain(image)), image)[0]])


ADAPTERS = [("pystn.torch", "torch"), ("pystn.jax", "jax"), ("pystn.autograd", "autograd")]


@pytest.mark.parametrize("name, framework", ADAPTERS)
def test_classes_are_those_of_pystn(name, framework):
    module = adapter(name, framework)
    for system, plain in SYSTEMS.items():
        cls = getattr(module, system)
        assert system in module.__all__
        assert issubclass(cls, plain)
        assert getattr(import_module(cls.__module__), system) is cls
        assert inspect.signature(cls) == inspect.signature(plain)
        assert f"`pystn.{system}`" in cls.__doc__


@pytest.mark.parametrize("name, framework", ADAPTERS)
def test_explicit_derivatives_are_those_of_pystn_alone(name, framework):
    system = adapter(name, framework).SpatialTransformer(lambda image: image)
    for call in (system.vjp, system.pull):
        with pytest.raises(TypeError, match=r"of its framework: pull and vjp are those of pystn\.SpatialTransformer"):
            call(None, None)


class TestTorch:
    """What systems are beside functions: modules."""

    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        self.stn = import_module("pystn.torch")

    def network(self, transform="affine", size=(6, 7), seed=0, spreads=False):
        torch = self.torch
        torch.manual_seed(seed)
        start = torch.from_numpy(pystn.identity_params(transform) + 0.03)
        start = torch.cat([start, start - 4]) if spreads else start
        layer = torch.nn.Linear(2 * size[0] * size[1], len(start), dtype=torch.float64)
        layer.weight.data.mul_(0.1)
        layer.bias.data.copy_(start)
        return torch.nn.Sequential(torch.nn.Flatten(), layer)

    def image(self):
        return self.torch.from_numpy(BY_NAME["affine-2d"].image())

    def systems(self):
        """One of each, by the prefixes of their networks' weights."""
        stn, network = self.stn, self.network
        frame = np.eye(2, 3) * 0.8
        several = ["localizations.0", "localizations.1"]
        return [
            (stn.SpatialTransformer(network()), ["localization"]),
            (stn.ParallelSpatialTransformer([network(), network(seed=1)], merge=True), several),
            (stn.CascadedSpatialTransformer([network(), network(SIM2)], ("affine", SIM2)), several),
            (stn.HierarchicalSpatialTransformer([network(size=(3, 4)), network()]), several),
            (stn.InverseCompositionalSpatialTransformer(network(), frame=frame, steps=2), ["localization"]),
            (stn.ProbabilisticSpatialTransformer(network(spreads=True)), ["localization"]),
        ]

    def test_their_networks_are_modules_of_theirs(self):
        for system, prefixes in self.systems():
            assert set(system.state_dict()) == {f"{p}.1.{name}" for p in prefixes for name in ("weight", "bias")}
            assert len(list(system.parameters())) == 2 * len(prefixes)
            assert next(system.float().parameters()).dtype == self.torch.float32

    def test_they_are_copied_and_pickled(self):
        for system, _ in self.systems():
            for again in (pickle.loads(pickle.dumps(system)), copy.deepcopy(system)):
                for found, expected in zip(leaves(again(self.image())), leaves(system(self.image())), strict=True):
                    assert self.torch.equal(found, expected)

    def test_hooks_see_their_calls(self):
        seen = []
        for system, _ in self.systems():
            system.register_forward_hook(lambda module, arguments, output: seen.append(len(output)))
            system(self.image())
        assert len(seen) == len(SYSTEMS)

    def test_they_say_what_they_are(self):
        parallel, cascade, refining = (repr(self.systems()[k][0]) for k in (1, 2, 4))
        assert "merge=True" in parallel
        assert "propagate='warp'" in cascade
        assert "order='right'" in refining
        assert "Linear" in refining

    def test_networks_that_are_functions(self):
        image, network = self.image(), self.network()
        plain = self.stn.CascadedSpatialTransformer([network, network])(image)
        functions = self.stn.CascadedSpatialTransformer([lambda image: network(image)] * 2)
        assert self.torch.equal(functions(image), plain)
        assert not list(functions.parameters())
        mixed = self.stn.CascadedSpatialTransformer([lambda image: network(image), network])
        assert self.torch.equal(mixed(image), plain)
        assert set(mixed.state_dict()) == {"localizations.1.1.weight", "localizations.1.1.bias"}

    def test_networks_in_a_module_list(self):
        networks = self.torch.nn.ModuleList([self.network(), self.network(seed=1)])
        for cls in (self.stn.ParallelSpatialTransformer, self.stn.CascadedSpatialTransformer):
            assert self.torch.equal(cls(networks)(self.image()), cls(list(networks))(self.image()))
            assert len(list(cls(networks).parameters())) == 4

    def test_transforms_that_are_modules(self):
        class Shift(self.torch.nn.Module):
            def __init__(self, grid):
                super().__init__()
                self.grid = self_torch.nn.Parameter(grid)

            def forward(self, parameters):
                return self.grid + parameters[..., None, None, :2]

        self_torch = self.torch
        shift = Shift(self.torch.from_numpy(pystn.affine_grid(np.eye(2, 3)[None], (6, 7))))
        alone = self.stn.SpatialTransformer(self.network(), shift)
        cascade = self.stn.CascadedSpatialTransformer([self.network(), self.network()], ("affine", shift))
        assert "transform.grid" in alone.state_dict()
        assert "transform1.grid" in cascade.state_dict()
        for system in (alone, cascade):
            assert any(p is shift.grid for p in system.parameters())
            system(self.image()).sum().backward()
            assert shift.grid.grad.abs().sum() > 0
            shift.grid.grad = None

    def test_no_name_of_systems_is_one_of_modules(self):
        """A private method of a system that is one of torch's too would take its place, or lose its own."""
        shared = {"forward", "__call__", "__init__", "extra_repr"}
        own = {name for cls in SYSTEMS.values() for base in cls.__mro__[:-1] for name in vars(base)}
        dunder = {name for name in own if name.startswith("__")} - {"__call__"}
        of_modules = set(dir(self.torch.nn.Module())) | set(inspect.getmembers(self.torch.nn.Module()).__class__())
        assert own & of_modules - dunder <= shared
        for system, _ in self.systems():
            attributes = {name for name in vars(system) if name not in vars(self.torch.nn.Module())}
            assert not attributes & of_modules

    @pytest.mark.parametrize("which", [2, 4])
    def test_compiled_as_one_graph(self, which):
        system, image = self.systems()[which][0], self.image()
        compiled = self.torch.compile(system, backend="aot_eager", fullgraph=True)
        gradients = []
        for call in (system, compiled):
            output = call(image)
            gradients.append([output, *self.torch.autograd.grad(output.square().sum(), list(system.parameters()))])
        for found, expected in zip(*gradients, strict=True):
            self.torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    def test_single_precision_with_a_frame_and_a_warp_to_start_from(self):
        case = BY_NAME["refining"]
        refine = self.stn.InverseCompositionalSpatialTransformer(self.network(), frame=np.eye(2, 3), steps=2).float()
        output = refine(self.image().float(), self.torch.from_numpy(AFFINE).float())
        assert output.dtype == self.torch.float32
        assert output.shape == case.image().shape

    def test_families_are_generators_of_stages(self):
        networks = [self.network(), self.network(SPLINE, (5, 6))]
        system = self.stn.CascadedSpatialTransformer(networks, ("affine", SPLINE))
        assert system(self.image()).shape == (2, 2, 5, 6)
