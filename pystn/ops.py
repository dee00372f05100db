"""The table of operations: each with its derivatives, called the same way whichever it is.

What an autodiff framework needs to know, and the adapters of this package do know, stands here: walk `OPERATIONS`, and
an operation that is added to the package is in the framework too.

>>> import pystn
>>> sorted(pystn.ops.OPERATIONS)[:3]
['affine_grid', 'affine_matrix', 'attention_matrix']
>>> pystn.ops.OPERATIONS["grid_sample"].primals
('input', 'grid')
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, signature
from itertools import zip_longest
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from pystn import (
    boundary,
    gradients,
    grids,
    losses,
    matrices,
    metrics,
    multisampling,
    projection,
    sampling,
    splatting,
    splines,
    warping,
)
from pystn.backends import backend_of
from pystn.grids.family import Family
from pystn.typing import Array
from pystn.validation import check_wrt, mask_dtype, sum_dtype, tangent_dtype

__all__ = ["OPERATIONS", "Operation", "Spec", "jvp", "operation", "vjp"]


class Spec(NamedTuple):
    """Shape and dtype of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)


Results = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Spec, ...]]


@dataclass(frozen=True)
class Operation:
    """A differentiable function of arrays with its derivatives.

    Primals are the arrays that it always takes and always has derivatives of; they come first, by position. Everything
    else is an option and goes by name. An option that `parameters` names may be an array with derivatives too: its
    gradient is asked for in `wrt`, its tangent is the option ``d_<name>``.

    Attributes
    ----------
    name : str
        That of the function, or of the class of a family of grids.
    primals : tuple of str
        Names of the arrays, in their order.
    parameters : tuple of str
        Names of options that have derivatives; "kernel" stands for the parameters of `mode`.
    data : tuple of str
        Names of options that are arrays without derivatives, as labels.
    cotangent : str
        What the derivatives call the cotangent of the output.
    arguments : tuple of str
        Names of primals and options that may be given by position, in their order.
    options : tuple of str
        Names of all options, in their order.
    forward : callable
        ``forward(*primals, **options)`` returns the output, an array, or a tuple of two with ``return_mask``.
    leading : bool
        Whether all axes before those of one matrix, or one set of parameters, are a batch. Else the first is.
    second_order : bool
        Whether there is `vjp2`.
    """

    source: Any  # the function, or the family's object; operations are equal if it is the same
    name: str = field(compare=False)
    primals: tuple[str, ...] = field(compare=False)
    forward: Callable[..., Any] = field(compare=False)
    functions: tuple[Callable[..., Any] | None, ...] = field(compare=False)  # vjp, jvp, vjp2
    results: Results = field(compare=False)
    parameters: tuple[str, ...] = field(default=(), compare=False)
    data: tuple[str, ...] = field(default=(), compare=False)
    leading: bool = field(default=False, compare=False)
    affine: bool = field(default=False, compare=False)  # has no vjp2: the second derivatives are zero
    curved_parameters: bool = field(default=False, compare=False)  # vjp2 knows the parameters
    no_second_order: str = field(default="", compare=False)  # why there is no second order
    arguments: tuple[str, ...] = field(init=False, compare=False)
    options: tuple[str, ...] = field(init=False, compare=False)
    cotangent: str = field(init=False, compare=False)
    _selects: bool = field(init=False, compare=False)  # vjp is told what is wanted

    def __post_init__(self) -> None:
        vjp: Any = self.functions[0]
        parameters = list(signature(self.forward).parameters.values())
        left_out = (*self.primals, "out")
        derived = {
            "arguments": tuple(p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD),
            "options": tuple(p.name for p in parameters if p.name not in left_out and p.kind is not p.VAR_KEYWORD),
            "cotangent": next(iter(signature(vjp).parameters)),
            "_selects": "wrt" in signature(vjp).parameters,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        return self.name

    @property
    def second_order(self) -> bool:
        return self.affine or self.functions[2] is not None

    def check_second_order(self) -> None:
        if not self.second_order:
            raise NotImplementedError(f"{self.name} has no second-order derivatives: {self.no_second_order}")

    def vjp(self, cotangent: Any, *primals: Array, wrt: Sequence[str] | None = None, **options: Any) -> tuple[Any, ...]:
        """Gradients to all primals, None where `wrt` does not name one, then to each parameter that `wrt` names."""
        function: Any = self.functions[0]
        names = self.primals if wrt is None else tuple(wrt)
        if self._selects:
            gradients: tuple[Any, ...] = function(cotangent, *primals, wrt=names, **options)
            return gradients
        (wanted,) = check_wrt(names, self.primals)
        return function(cotangent, *primals, **options) if wanted else (None,)

    def jvp(self, *primals_and_tangents: Any, **options: Any) -> Any:
        """The tangent of the output; first come the primals, then a tangent, or None for zero, of each."""
        function: Any = self.functions[1]
        return function(*primals_and_tangents, **options)

    def vjp2(self, *arrays: Any, wrt: Sequence[str] | None = None, **options: Any) -> tuple[Any, ...]:
        """The VJP of `vjp`: from cotangents of its results, or None for zero, its cotangent and the primals.

        Returns the gradients to the cotangent and to the primals, None where `wrt` does not name one.
        """
        count = len(self.primals)
        second, (cotangent, *primals) = arrays[:count], arrays[count:]
        if not self.affine:
            self.check_second_order()
            function: Any = self.functions[2]
            names = (self.cotangent, *self.primals) if wrt is None else tuple(wrt)
            found: tuple[Any, ...] = function(*second, cotangent, *primals, wrt=names, **options)
            return found
        allowed = (self.cotangent, *self.primals)
        wanted = check_wrt(allowed if wrt is None else wrt, allowed)
        xp = backend_of({self.cotangent: cotangent}).xp
        zeros = [
            xp.zeros(primal.shape, tangent_dtype(primal.dtype)) if asked else None
            for primal, asked in zip(primals, wanted[1:], strict=True)
        ]
        return (self.jvp(*primals, *second, **options) if wanted[0] else None, *zeros)


def image(batch: Any, channels: Any, size: Any, options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Shape of an image in the layout of the options."""
    return (batch, channels, *size) if options.get("channel_axis", 1) == 1 else (batch, *size, channels)


def channels(array: Any, options: Mapping[str, Any]) -> Any:
    return array.shape[1 if options.get("channel_axis", 1) == 1 else -1]


def larger(a: Any, b: Any) -> Any:
    """The batch size of two arrays of which one may be shared."""
    return b.shape[0] if a.shape[0] == 1 else a.shape[0]


def broadcast(a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, ...]:
    """Leading axes of two arrays together."""
    pairs = zip_longest(reversed(a), reversed(b), fillvalue=1)
    return tuple(n if m == 1 else m for m, n in pairs)[::-1]


def dimensions(specs: Mapping[str, Any]) -> int:
    """How many entries the spatial size of an output has."""
    return int(specs["grid"].shape[-1] if "grid" in specs else specs["theta"].shape[-1] - 1)


def spatial(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Any, ...]:
    """The spatial size of an output, given as such or as the full (N, C, *spatial)."""
    return tuple(options["size"])[-dimensions(specs) :]


def with_mask(input: Any, shape: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    output = Spec(shape, input.dtype)
    if not options.get("return_mask", False):
        return (output,)
    size = shape[2:] if options.get("channel_axis", 1) == 1 else shape[1:-1]
    return output, Spec((shape[0], *size), mask_dtype(input.dtype))


def sampled(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    input, grid = specs["input"], specs["grid"]
    shape = image(larger(input, grid), channels(input, options), grid.shape[1:-1], options)
    return with_mask(input, shape, options)


def slopes(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    ((shape, dtype),) = sampled(specs, options)
    return (Spec((*shape, specs["grid"].shape[-1]), tangent_dtype(dtype)),)


def warped(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    input, theta = specs["input"], specs["theta"]
    size = (*theta.shape[1:-2], *spatial(specs, options))
    return with_mask(input, image(larger(input, theta), channels(input, options), size, options), options)


def projected(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    input, theta = specs["input"], specs["theta"]
    size = (*theta.shape[1:-2], *spatial(specs, options)[1:])
    return (Spec(image(larger(input, theta), channels(input, options), size, options), input.dtype),)


def pushed(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    values, grid = specs["values"], specs["grid"]
    size = spatial(specs, options)
    return (Spec(image(larger(values, grid), channels(values, options), size, options), values.dtype),)


def counted(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    grid = specs["grid"]
    return (Spec(image(grid.shape[0], 1, spatial(specs, options), options), grid.dtype),)


def coefficients(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    return (Spec(specs["input"].shape, sum_dtype(specs["input"].dtype)),)


def lattice(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    theta = specs["theta"]
    return (Spec((*theta.shape[:-2], *spatial(specs, options), dimensions(specs)), theta.dtype),)


def combined(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    theta, basis = specs["theta"], specs["basis"]
    rows = theta.shape[-2] - bool(options.get("homogeneous", False))
    return (Spec((larger(theta, basis), *theta.shape[1:-2], *basis.shape[2:], rows), theta.dtype),)


def displaced(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    flow = specs["flow"]
    if options.get("channel_axis", -1) == -1:
        return (Spec(flow.shape, flow.dtype),)
    return (Spec((flow.shape[0], *flow.shape[2:], flow.shape[1]), flow.dtype),)


def composed_grids(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    first, second = specs["first"], specs["second"]
    return (Spec((larger(first, second), *second.shape[1:]), first.dtype),)


def trailing(core: int, shape: Callable[[Any, Mapping[str, Any]], tuple[int, ...]]) -> Results:
    """Results of an operation that replaces the last axes of its primals."""

    def results(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
        leading: tuple[Any, ...] = ()
        for spec in specs.values():
            leading = broadcast(leading, spec.shape[: spec.ndim - core])
        first = next(iter(specs.values()))
        return (Spec((*leading, *shape(first, options)), first.dtype),)

    return results


def composed(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    first, second = specs["first"], specs["second"]
    core = first.shape[-2:] if first.shape[-2] == first.shape[-1] else second.shape[-2:]
    return (Spec((*broadcast(first.shape[:-2], second.shape[:-2]), *core), first.dtype),)


def attention(params: Any, options: Mapping[str, Any]) -> tuple[int, int]:
    count, scale = params.shape[-1], options.get("scale", "isotropic")
    ndim = {"isotropic": count - 1, "anisotropic": count // 2}[scale] if isinstance(scale, str) else count
    return ndim, ndim + 1


def generator_shape(params: Any, options: Mapping[str, Any]) -> tuple[int, int]:
    ndim = int(options["group"][-1])
    return (3, 3) if options["group"] == "sl3" else (ndim, ndim + 1)


GROUP_PARAMETERS = {"se2": 3, "sim2": 4, "aff2": 6, "sl3": 8, "se3": 6, "sim3": 7, "aff3": 12}


def by_count(**shapes: tuple[int, int]) -> Results:
    """Matrices of the shape that goes with how many parameters they have."""
    return trailing(1, lambda params, options: shapes[f"p{params.shape[-1]}"])


def one_of_each(core: int) -> Results:
    """One number for the last `core` axes."""
    return trailing(core, lambda first, options: ())


def without_axis(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    (array,) = specs.values()
    axis = options.get("axis", -1) % array.ndim
    return (Spec((*array.shape[:axis], *array.shape[axis + 1 :]), array.dtype),)


def of_batch(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
    (first,) = specs.values()
    return (Spec(first.shape[:1], first.dtype),)


def same(core: int) -> Results:
    return trailing(core, lambda first, options: tuple(first.shape[first.ndim - core :]))


def row(
    module: ModuleType, name: str, primals: tuple[str, ...], results: Results, *parameters: str, **kind: Any
) -> Operation:
    """A row of the table: the functions are those of the name, in a module."""
    functions = tuple(getattr(module, f"{name}_{suffix}", None) for suffix in ("vjp", "jvp", "vjp2"))
    function = getattr(module, name)
    return Operation(function, name, primals, function, functions, results, parameters, **kind)


THIRD_ORDER = "they are of the third order in the sampler"
ESTIMATES = "those of the first order are estimates, not derivatives of its value"
AFFINE = {"affine": True}
LEADING = {"leading": True}
FLAT = {"leading": True, "affine": True}
BOTH = ("fill_value", "kernel")
LABELLED = {"leading": True, "data": ("labels",)}
P = ("params",)
PAIR = ("first", "second")

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        row(sampling, "grid_sample", ("input", "grid"), sampled, *BOTH),
        row(sampling, "grid_gradient", ("input", "grid"), slopes, no_second_order=THIRD_ORDER),
        row(multisampling, "linearized_grid_sample", ("input", "grid"), sampled, no_second_order=ESTIMATES),
        row(splatting, "grid_push", ("values", "grid"), pushed),
        row(splatting, "grid_count", ("grid",), counted),
        row(splatting, "forward_warp", ("values", "grid"), pushed),
        row(splines, "spline_filter", ("input",), coefficients, **AFFINE),
        row(warping, "warp_affine", ("input", "theta"), warped, *BOTH),
        row(warping, "warp_projective", ("input", "theta"), warped, *BOTH),
        row(projection, "warp_project", ("input", "theta"), projected),
        row(grids, "affine_grid", ("theta",), lattice, **AFFINE),
        row(grids, "projective_grid", ("theta",), lattice),
        row(grids, "linear_grid", ("theta", "basis"), combined),
        row(grids, "displacement_grid", ("flow",), displaced, **AFFINE),
        row(grids, "invert_displacement", ("flow",), same(0)),
        row(grids, "compose_grids", PAIR, composed_grids),
        row(grids, "jacobian_determinant", ("grid",), one_of_each(1)),
        row(matrices, "translation_matrix", P, by_count(p1=(1, 2), p2=(2, 3), p3=(3, 4)), **FLAT),
        row(matrices, "attention_matrix", P, trailing(1, attention), **FLAT),
        row(matrices, "rotation_matrix", P, by_count(p1=(2, 3), p3=(3, 4), p4=(3, 4)), **LEADING),
        row(matrices, "rigid_matrix", P, by_count(p3=(2, 3), p6=(3, 4), p7=(3, 4)), **LEADING),
        row(matrices, "similarity_matrix", P, by_count(p4=(2, 3), p7=(3, 4), p8=(3, 4)), **LEADING),
        row(matrices, "pstn_affine_matrix", P, by_count(p4=(2, 3), p5=(2, 3)), **LEADING),
        row(matrices, "affine_matrix", P, by_count(p6=(2, 3)), **LEADING),
        row(matrices, "projective_matrix", P, by_count(p8=(3, 3)), **FLAT),
        row(matrices, "decompose_affine", ("theta",), trailing(2, lambda theta, options: (6,)), **LEADING),
        row(matrices, "compose", PAIR, composed, **LEADING),
        row(matrices, "invert", ("theta",), same(2), **LEADING),
        row(matrices, "expm", ("generator",), same(2), **LEADING),
        row(matrices, "logm", ("matrix",), same(2), **LEADING),
        row(matrices, "lie_generator", P, trailing(1, generator_shape), **FLAT),
        row(
            matrices,
            "lie_parameters",
            ("generator",),
            trailing(2, lambda generator, options: (GROUP_PARAMETERS[options["group"]],)),
            **FLAT,
        ),
        row(
            matrices,
            "homography_from_points",
            ("from_points", "to_points"),
            trailing(2, lambda points, options: (3, 3)),
            **LEADING,
        ),
        row(matrices, "theta_to_box", ("theta",), trailing(2, lambda theta, options: (2 * theta.shape[-2],)), **FLAT),
        row(matrices, "box_iou", PAIR, one_of_each(1), **LEADING),
        row(matrices, "normalized_to_pixel", ("theta",), same(2), **FLAT),
        row(matrices, "pixel_to_normalized", ("matrix",), same(2), **FLAT),
        row(boundary, "normalized_grid_sample", ("input", "grid"), sampled, *BOTH, "mask"),
        row(boundary, "out_of_bounds_penalty", ("grid",), of_batch),
        row(losses, "triplet_hinge", ("anchor", "positive", "negative"), one_of_each(1), **LEADING),
        row(losses, "colocalization_loss", ("crops", "random"), one_of_each(2), **LEADING),
        row(losses, "normal_kl", ("mean", "scale", "prior_mean", "prior_scale"), one_of_each(0), **LEADING),
        row(losses, "gamma_kl", ("beta", "prior_beta"), one_of_each(0), **LEADING),
        row(losses, "log_mean_exp", ("array",), without_axis, **LEADING),
        row(losses, "identity_penalty", ("theta",), one_of_each(2), **LEADING),
        row(metrics, "expected_calibration_error", ("probabilities",), one_of_each(2), **LABELLED, affine=True),
        row(metrics, "brier_score", ("probabilities",), one_of_each(2), **LABELLED),
        row(gradients, "scale_gradient", ("array",), same(0), **FLAT),
    )
}
BY_FUNCTION = {operation.forward: operation for operation in OPERATIONS.values()}


def operation(f: Any) -> Operation:
    """The operation that a function of pystn, its name, or a family's object stands for.

    Parameters
    ----------
    f : callable or str
        ``pystn.grid_sample``, ``"grid_sample"``, ``pystn.ThinPlateSpline(...)``, an `Operation`.

    Returns
    -------
    Operation
        Equal ones for the same `f`. That of a family's object has the primal theta, and what the object is made
        from as parameters: ``operation(spline).forward(theta, points=points)`` is that of other control points.

    Raises
    ------
    TypeError
        If it is none of pystn's.

    Examples
    --------
    >>> import pystn
    >>> pystn.ops.operation(pystn.affine_grid).primals
    ('theta',)
    >>> spline = pystn.ThinPlateSpline(pystn.control_points((4, 4)), (28, 28))
    >>> pystn.ops.operation(spline).parameters
    ('points',)
    """
    if isinstance(f, Operation):
        return f
    if isinstance(f, Family):
        if "_operation" not in vars(f):
            vars(f)["_operation"] = of_family(f)
        found: Operation = vars(f)["_operation"]
        return found
    try:
        return OPERATIONS[f] if isinstance(f, str) else BY_FUNCTION[f]
    except (KeyError, TypeError):
        expected = "a differentiable function of pystn, the name of one, or an object of a family of grids"
        raise TypeError(f"expected {expected}, got {f!r}") from None


def of_family(family: Family) -> Operation:
    """The operation of a family's object; its state may be given as options."""

    def made(state: dict[str, Any]) -> Family:
        """The family of the state that is given; what else is in `state`, its tangents, gets its dtype."""
        given = {name: state.pop(name) for name in family.state if name in state}
        for name, tangent in state.items():
            if tangent is not None:
                state[name] = tangent.astype(np.float64, copy=False)
        return family.replace(**given) if given else family

    def forward(theta: Array, **state: Any) -> Array:
        return made(state)(theta)

    def grid_vjp(grad_grid: Array, theta: Array, *, wrt: Sequence[str], **state: Any) -> tuple[Any, ...]:
        return made(state).vjp(grad_grid, theta, wrt=wrt)

    def grid_jvp(theta: Array, d_theta: Array | None, **state: Any) -> Array:
        return made(state).jvp(theta, d_theta, **state)

    def grid_vjp2(*arrays: Any, wrt: Sequence[str], **state: Any) -> tuple[Any, ...]:
        return made(state).vjp2(*arrays, wrt=wrt, **state)

    def results(specs: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Spec, ...]:
        theta = specs["theta"]
        leading = theta.shape[: theta.ndim - len(family.theta_shape)]
        return (Spec((*leading, *family.size, family.ndim), theta.dtype),)

    return Operation(
        family,
        type(family).__name__,
        ("theta",),
        forward,
        (grid_vjp, grid_jvp, grid_vjp2),
        results,
        family.state,
        leading=True,
        curved_parameters=True,
    )


def vjp(f: Any, *primals: Array, **options: Any) -> tuple[Any, Callable[..., tuple[Any, ...]]]:
    """Call an operation, and return what pulls cotangents of its output back.

    Parameters
    ----------
    f : callable or str
        A differentiable function of this package, as ``pystn.grid_sample``, or an object of a family of grids.
    *primals : ndarray
        The arrays that it has derivatives of.
    **options
        All other arguments, by name.

    Returns
    -------
    output : ndarray
        ``f(*primals, **options)``.
    pullback : callable
        ``pullback(cotangent, wrt=None)``: the gradients to the primals, None where `wrt` does not name one, then those
        to each option that `wrt` names, as "fill_value". It may be called any number of times.

    Raises
    ------
    TypeError
        If `f` is no operation, or primals are missing.

    See Also
    --------
    jvp : the tangent of the output.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.array([[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]])
    >>> grid, pullback = pystn.vjp(pystn.affine_grid, theta, size=(4, 4))
    >>> (grad_theta,) = pullback(2 * grid)
    >>> grad_theta.shape
    (1, 2, 3)
    """
    called = operation(f)
    check_primals(called, primals)
    output = called.forward(*primals, **options)

    def pullback(cotangent: Any, wrt: Sequence[str] | None = None) -> tuple[Any, ...]:
        return called.vjp(cotangent, *primals, wrt=wrt, **options)

    return output, pullback


def jvp(f: Any, primals: Sequence[Array], tangents: Sequence[Array | None], **options: Any) -> tuple[Any, Any]:
    """Call an operation, and push tangents of its primals forward.

    Parameters
    ----------
    f : callable or str
        A differentiable function of this package, as ``pystn.grid_sample``, or an object of a family of grids.
    primals, tangents : sequence of ndarray
        The arrays that it has derivatives of, and the tangent of each; None is zero.
    **options
        All other arguments, by name, and tangents of options, as `d_fill_value`.

    Returns
    -------
    output, d_output : ndarray
        ``f(*primals, **options)`` and its tangent.

    Raises
    ------
    TypeError
        If `f` is no operation, or primals or tangents are missing.

    See Also
    --------
    vjp : gradients.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.array([[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]])
    >>> grid, d_grid = pystn.jvp(pystn.affine_grid, (theta,), (theta,), size=(4, 4))
    >>> bool((grid == d_grid).all())  # it is linear
    True
    """
    called = operation(f)
    check_primals(called, primals)
    check_primals(called, tangents, "tangent")
    moved = [f"d_{name}" for name in called.parameters]
    output = called.forward(*primals, **{name: value for name, value in options.items() if name not in moved})
    return output, called.jvp(*primals, *tangents, **options)


def check_primals(called: Operation, arrays: Sequence[Any], kind: str = "primal") -> None:
    if len(arrays) != len(called.primals):
        expected = ", ".join(called.primals)
        raise TypeError(f"{called.name} has one {kind} for each of {expected}: got {len(arrays)}")
