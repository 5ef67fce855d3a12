"""Gradients that differences cannot judge, or torch can too: against torch.autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array, TensorType, dtype_of, f64
from bessemer.compiler.ops.composite.composite import broadcast_to
from bessemer.compiler.ops.composite.composite_activation import celu, elu, mish, softplus
from bessemer.compiler.ops.composite.composite_reduce import l2_norm
from bessemer.compiler.passes.differentiation.differentiate import gradients

torch = pytest.importorskip("torch")
rng = np.random.default_rng(21)
_Write = Callable[..., Value]


def _total(b: GraphBuilder, x: Value) -> Value:
    weights = np.linspace(-1, 2, int(np.prod(x.type.static_shape, dtype=int)))
    weighted = b.apply("mul", x, b.constant(weights.reshape(x.type.static_shape)))
    return b.apply("reduce_sum", weighted, axes=tuple(range(x.type.rank)))


def _torch_total(t: Any) -> Any:
    return (t * torch.linspace(-1, 2, t.numel(), dtype=torch.float64).reshape(t.shape)).sum()


def _graph(arrays: Sequence[Array], write: _Write) -> Graph:
    b = GraphBuilder("reference")
    values = [b.input(f"x{k}", TensorType(dtype_of(a), a.shape)) for k, a in enumerate(arrays)]
    loss = _total(b, write(b, *values))
    floats = [value for value in values if value.type.dtype.is_float]
    return b.finish([loss, *gradients(b, loss, floats)])


def _check(
    arrays: Sequence[Array], write: _Write, theirs: Callable[..., Any], compiled: bool = True
) -> None:
    """The loss and the gradients by all floats; interpreted, and compiled."""
    tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    loss = _torch_total(theirs(*tensors))
    found = torch.autograd.grad(loss, [t for t in tensors if t.requires_grad])
    wanted = [value.detach().numpy() for value in (loss, *found)]
    graph = _graph(arrays, write)
    feeds = {f"x{k}": array for k, array in enumerate(arrays)}
    runs = [run_graph(graph, feeds)]
    if compiled:
        runs.append(bessemer.compile(graph).run(feeds))
    for results in runs:
        for ours, expected in zip(results, wanted, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_grid_sample(mode: str, padding: str, corners: bool) -> None:
    x, grid = rng.standard_normal((2, 4, 5, 3)), rng.uniform(-1.6, 1.6, (2, 3, 2, 2))
    kind = {"linear": "bilinear", "cubic": "bicubic"}[mode]

    def theirs(x: Any, grid: Any) -> Any:
        image = x.permute(0, 3, 1, 2)
        found = torch.nn.functional.grid_sample(image, grid, kind, padding, corners)
        return found.permute(0, 2, 3, 1)

    _check(
        (x, grid),
        lambda b, x, g: b.apply(
            "grid_sample", x, g, mode=mode, padding=padding, align_corners=corners
        ),
        theirs,
        compiled=not corners,
    )


_WITH_TIES = np.array([[2.0, 0.0, 3.0, 1.0], [0.0, 5.0, 5.0, -1.0]])
_PLACES = np.array([[0, 0, 1, 2], [1, 1, 0, 3]])
_UPDATES = np.array([[0.0, 5.0, -2.0, 3.0], [5.0, 0.0, 0.0, 4.0]])


@pytest.mark.parametrize("theirs", ["amax", "amin"])
def test_a_reduction_shares_among_equal_ones(theirs: str) -> None:
    _check(
        [np.random.default_rng(0).integers(0, 3, (3, 4, 5)).astype(np.float64)],
        lambda b, x: b.apply(f"reduce_{theirs[1:]}", x, axes=(0, 2)),
        lambda x: getattr(x, theirs)((0, 2)),
    )


def test_a_product_bears_zeros() -> None:
    numbers = np.random.default_rng(1).integers(-2, 3, (3, 4, 5)).astype(np.float64)
    _check([numbers], lambda b, x: b.apply("reduce_prod", x, axes=(1,)), lambda x: x.prod(1))


@pytest.mark.parametrize(
    ("ours", "theirs"), [("mul", "prod"), ("max", "amax"), ("min", "amin"), ("add", "sum")]
)
def test_a_scatter_shares_among_equal_ones_and_bears_zeros(ours: str, theirs: str) -> None:
    _check(
        (_WITH_TIES, _PLACES, _UPDATES),
        lambda b, x, i, u: b.apply("scatter_elements", x, i, u, axis=1, reduction=ours),
        lambda x, i, u: x.scatter_reduce(1, i, u, theirs),
    )
    columns = (_WITH_TIES[0], _PLACES[0][:, None], _UPDATES[0])
    _check(
        columns,
        lambda b, x, i, u: b.apply("scatter_nd", x, i, u, reduction=ours),
        lambda x, i, u: x.scatter_reduce(0, i[:, 0], u, theirs),
    )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
def test_running_products_bear_zeros(exclusive: bool, reverse: bool) -> None:
    x = rng.standard_normal((6, 5))
    for row, zeros in enumerate([[], [0], [4], [2], [1, 3], [0, 4]]):
        x[row, zeros] = 0.0
    given = {"axis": 1, "reduction": "mul", "exclusive": exclusive, "reverse": reverse}

    def theirs(x: Any) -> Any:
        x = x.flip(1) if reverse else x
        x = torch.cat([torch.ones_like(x[:, :1]), x[:, :-1]], 1) if exclusive else x
        return x.cumprod(1).flip(1) if reverse else x.cumprod(1)

    _check((x,), lambda b, x: b.apply("cumulative", x, **given), theirs)


@pytest.mark.parametrize(
    ("name", "given", "theirs"),
    [
        ("relu", {}, torch.relu),
        ("abs", {}, torch.abs),
        ("leaky_relu", {"slope": 0.1}, lambda x: torch.nn.functional.leaky_relu(x, 0.1)),
        ("clip", {"minimum": -0.7, "maximum": 0.6}, lambda x: x.clamp(-0.7, 0.6)),
    ],
)
def test_at_a_bend_the_gradient_is_that_of_one_side(
    name: str, given: dict[str, float], theirs: Any
) -> None:
    """1 is added, so that the loss depends on what is 0."""
    x = np.array([0.0, -0.0, -0.7, 0.6, 2.0, -2.0])
    _check(
        (x,),
        lambda b, x: b.apply("add", b.apply(name, x, **given), b.constant(np.ones(6))),
        lambda x: theirs(x) + 1,
    )


def test_a_smooth_function_of_parts_without_slopes_has_its_own() -> None:
    """softplus at 0, the exponential units where exp(x) is infinite, and the norm of zeros."""
    x = np.array([[0.0, -0.0, 1.0, -1.0], [1e3, -1e3, 89.0, 0.0], [0.0, 0.0, 0.0, -0.0]])
    functional = torch.nn.functional

    def ours(b: GraphBuilder, x: Value) -> Value:
        norm = broadcast_to(b, l2_norm(b, x, (1,), keep=True), x.type.shape)
        units = softplus(b, x), mish(b, x), elu(b, x), celu(b, x, 0.5)
        return b.apply("concat", *units, norm, axis=0)

    def theirs(x: Any) -> Any:
        norm = x.norm(dim=1, keepdim=True).expand_as(x)
        units = functional.softplus(x), functional.mish(x), functional.elu(x)
        return torch.cat([*units, functional.celu(x, 0.5), norm])

    _check((x,), ours, theirs, compiled=False)


def test_a_power_of_zero_is_flat() -> None:
    x = np.array([0.0, 0.0, 0.0, 2.0, -2.0, np.inf, -np.inf])
    y = np.array([0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0])
    powers = torch.tensor(y)
    _check((x,), lambda b, x: b.apply("pow", x, b.constant(y)), lambda x: x**powers)


@pytest.mark.parametrize(("mode", "theirs"), [("linear", "bilinear"), ("cubic", "bicubic")])
def test_resize_of_an_image_whose_size_is_a_symbol(mode: str, theirs: str) -> None:
    b = GraphBuilder("symbols")
    rows, columns = symbol("h"), symbol("w")
    x = b.input("x", TensorType(f64, (1, rows, columns, 2)))
    y = b.apply("resize", x, shape=(1, 2 * rows + 1, 3, 2), mode=mode)
    loss = b.apply("reduce_sum", b.apply("mul", y, y), axes=(0, 1, 2, 3))
    graph = b.finish([loss, *gradients(b, loss, [x])])
    model = bessemer.compile(graph)
    for shape in ((4, 6), (1, 3), (5, 2)):
        array = rng.standard_normal((1, *shape, 2))
        tensor = torch.tensor(array, requires_grad=True)
        resized = torch.nn.functional.interpolate(
            tensor.permute(0, 3, 1, 2), (2 * shape[0] + 1, 3), mode=theirs
        )
        total = (resized * resized).sum()
        (wanted,) = torch.autograd.grad(total, [tensor])
        for found in (run_graph(graph, {"x": array}), model.run({"x": array})):
            np.testing.assert_allclose(found[0], total.item(), rtol=1e-10)
            np.testing.assert_allclose(found[1], wanted.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mode", ["reflect", "wrap", "edge"])
def test_a_pad_of_a_size_that_is_a_symbol(mode: str) -> None:
    b = GraphBuilder("symbols")
    n = symbol("n")
    x = b.input("x", TensorType(f64, (2, n)))
    y = b.apply("pad", x, low=(0, 3), high=(0, n + 2), mode=mode, value=0)
    loss = b.apply("reduce_sum", b.apply("mul", y, y), axes=(0, 1))
    graph = b.finish([loss, *gradients(b, loss, [x])])
    model = bessemer.compile(graph)
    for size in (2, 5):
        array = rng.standard_normal((2, size))
        places = np.pad(np.arange(size), (3, size + 2), mode)  # type: ignore[call-overload]
        counts = np.bincount(places, minlength=size)
        for found in (run_graph(graph, {"x": array}), model.run({"x": array})):
            np.testing.assert_allclose(found[1], 2 * array * counts, rtol=1e-12)


def test_the_distinct_elements_are_the_first_of_each() -> None:
    array = np.array([3.0, 1.0, 3.0, -2.0, 1.0, 4.0])
    b = GraphBuilder("unique")
    x = b.input("x", TensorType(f64, (6,)))
    values, *_ = b.apply_many("unique", x, symbol="n")
    cube = b.apply("mul", values, b.apply("mul", values, values))
    loss = b.apply("reduce_sum", cube, axes=(0,))
    graph = b.finish([loss, *gradients(b, loss, [x])])
    wanted = 3 * array**2 * np.array([1, 1, 0, 1, 0, 1])
    for found in (run_graph(graph, {"x": array}), bessemer.compile(graph).run({"x": array})):
        np.testing.assert_allclose(found[1], wanted, rtol=1e-12)


_WINDOW = {"kernel": (3, 2), "strides": (2, 1), "dilations": (1, 1), "low": (1, 0), "high": (1, 1)}


@pytest.mark.parametrize("pool", ["max_pool", "average_pool"])
def test_the_gradient_of_a_pools_gradient(pool: str) -> None:
    array = rng.standard_normal((2, 7, 5, 3))
    b = GraphBuilder("twice")
    x = b.input("x", TensorType(f64, array.shape))
    more = {"count_include_pad": True} if pool == "average_pool" else {}
    y = b.apply(pool, x, **_WINDOW, **more)
    loss = _total(b, b.apply("mul", y, b.apply("mul", y, y)))
    (first,) = gradients(b, loss, [x])
    norm = b.apply("reduce_sum", b.apply("mul", first, first), axes=(0, 1, 2, 3))
    graph = b.finish([norm, *gradients(b, norm, [x])])

    tensor = torch.tensor(array, requires_grad=True)
    lowest = 0.0 if more else -np.inf
    image = torch.nn.functional.pad(tensor.permute(0, 3, 1, 2), (0, 1, 1, 1), value=lowest)
    function = torch.nn.functional.avg_pool2d if more else torch.nn.functional.max_pool2d
    found = function(image, (3, 2), (2, 1)).permute(0, 2, 3, 1)
    (once,) = torch.autograd.grad(_torch_total(found**3), [tensor], create_graph=True)
    total = (once * once).sum()
    wanted = [total.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(total, [tensor]))]
    feeds = {"x": array}
    for results in (run_graph(graph, feeds), bessemer.compile(graph).run(feeds)):
        for ours, expected in zip(results, wanted, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("pool", ["max_pool", "average_pool"])
def test_the_gradient_of_a_pool_of_a_large_window(pool: str) -> None:
    """A pyramid's 13x13, and a signal's window of more taps than are written out, with many equal
    largest elements."""
    more = {"count_include_pad": True} if pool == "average_pool" else {}
    theirs = torch.nn.functional
    steps = {"strides": (1, 2), "dilations": (1, 1), "low": (6, 6), "high": (6, 6)}
    image = np.maximum(rng.integers(-3, 3, (1, 7, 8, 2)), 0).astype(np.float64)

    def square(x: Any) -> Any:
        function = theirs.avg_pool2d if more else theirs.max_pool2d
        return function(x.permute(0, 3, 1, 2), 13, (1, 2), 6).permute(0, 2, 3, 1)

    _check([image], lambda b, x: b.apply(pool, x, kernel=(13, 13), **steps, **more), square)
    along = {"strides": (3,), "dilations": (1,), "low": (0,), "high": (0,)}
    signal = np.maximum(rng.integers(-3, 3, (2, 90, 3)), 0).astype(np.float64)

    def line(x: Any) -> Any:
        function = theirs.avg_pool1d if more else theirs.max_pool1d
        return function(x.swapaxes(1, 2), 70, 3).swapaxes(1, 2)

    _check([signal], lambda b, x: b.apply(pool, x, kernel=(70,), **along, **more), line)


_CONV = {"strides": (1, 1), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}


def test_deform_conv_whose_taps_are_all_a_quarter_further() -> None:
    x, w = rng.standard_normal((2, 4, 5, 4)), rng.standard_normal((3, 3, 2, 6))
    offsets, mask = np.full((2, 4, 5, 18), 0.25), rng.standard_normal((2, 4, 5, 9))

    def theirs(x: Any, w: Any, offsets: Any, mask: Any) -> Any:
        """Written with unfold, four times: a moved tap is between four elements."""
        image = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (1, 2, 1, 2))
        moved = offsets.reshape(2, 20, 9, 2).permute(0, 3, 2, 1)
        parts = []
        for i in (0, 1):
            for j in (0, 1):
                corner = image[:, :, i : i + 6, j : j + 7]
                seen = torch.nn.functional.unfold(corner, 3).reshape(2, 4, 9, 20)
                row, column = moved[:, :1], moved[:, 1:]
                parts.append(seen * (row if i else 1 - row) * (column if j else 1 - column))
        seen = sum(parts) * mask.reshape(2, 20, 9).permute(0, 2, 1)[:, None]
        grouped = seen.reshape(2, 2, 2, 9, 20)
        weight = w.reshape(9, 2, 2, 3)
        found = torch.einsum("ngctp,tcgo->npgo", grouped, weight)
        return found.reshape(2, 4, 5, 6)

    _check(
        (x, w, offsets, mask),
        lambda b, *values: b.apply("deform_conv", *values, **_CONV, groups=2, offset_groups=1),
        theirs,
    )


def test_what_has_no_gradient_says_so_with_the_users_node() -> None:
    b = GraphBuilder("twice")
    x, boxes = (
        b.input(f"x{k}", TensorType(f64, shape)) for k, shape in enumerate(((1, 6, 6, 2), (2, 5)))
    )
    with b.source("heads"):
        y = b.apply("max_roi_pool", x, boxes, shape=(2, 2), scale=1.0)
    (first,) = gradients(b, _total(b, b.apply("mul", y, y)), [x])
    with pytest.raises(UnsupportedError, match="heads: max_roi_pool_gradient"):
        gradients(b, _total(b, first), [x])
