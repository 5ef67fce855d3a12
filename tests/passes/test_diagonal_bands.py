"""Products of matrices that are zero, or not read, away from a diagonal: less is multiplied."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array, TensorType, f32, i64
from bessemer.compiler.ops.composite.composite_reduce import softmax
from bessemer.compiler.passes.differentiation.differentiate import gradients
from bessemer.compiler.schedule.contraction.contraction import Band, Bands
from bessemer.compiler.schedule.grouping.diagonal_bands import find_bands
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.schedule.spans import spans_of
from bessemer.compiler.targets import x86


def _seen(rows: int, columns: int, band: Band) -> Array:
    distance = np.arange(columns) - np.arange(rows)[:, None]
    return (distance <= band.above) & (-distance <= band.below)


def _input(b: GraphBuilder, name: str, *shape: int) -> Value:
    return b.input(name, TensorType(f32, shape))


def _kept(b: GraphBuilder, x: Value, band: Band, other: float = 0.0) -> Value:
    """A value where the band is, and another number elsewhere."""
    shape = x.type.static_shape
    mask = b.constant(_seen(shape[-2], shape[-1], band))
    mask = b.apply("broadcast_to", mask, shape=shape)
    return b.apply("select", mask, x, b.apply("full", shape=shape, value=other, dtype=f32))


def _bands(graph: Graph) -> list[Bands]:
    return [*find_bands(graph).values()]


def _run(graph: Graph, inputs: dict[str, Array]) -> list[Array]:
    """The outputs, which must have the same bits with one thread and with two."""
    one, two = (bessemer.compile(graph, threads=count).run(inputs) for count in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    return one


CASES = [
    ((1, 37, 50, 70), Band(0, 70)),
    ((3, 64, 64, 33), Band(5, 2)),
    ((2, 50, 30, 64), Band(70, 0)),
    ((1, 40, 1300, 48), Band(1250, 1200)),
    ((1, 70, 90, 5), Band(-3, 80)),
]


@pytest.mark.parametrize(("sizes", "band"), CASES)
@pytest.mark.parametrize("side", ["left", "turned", "right", "sums"])
def test_what_is_zero_or_not_read_is_not_multiplied(
    sizes: tuple[int, int, int, int], band: Band, side: str, rng: np.random.Generator
) -> None:
    count, m, k, n = sizes
    b = GraphBuilder("product")
    shapes = {"x": (count, m, k), "y": (count, k, n), "z": (count, m, n)}
    if side == "turned":
        shapes["x"] = (count, k, m)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    x, y, z = (_input(b, name, *shape) for name, shape in shapes.items())
    masked = {"left": x, "turned": x, "right": y, "sums": z}[side]
    kept = _kept(b, masked, band)
    if side in ("left", "turned"):
        x = b.apply("transpose", kept, permutation=(0, 2, 1)) if side == "turned" else kept
    y = kept if side == "right" else y
    out = b.apply("matmul", x, y)
    out = b.apply("mul", out, kept) if side == "sums" else out
    graph = b.finish([out], ["out"])
    place = "left" if side == "turned" else side
    found = [getattr(bands, place) for bands in _bands(graph)]
    rows, columns = masked.type.static_shape[-2:]
    seen = _seen(rows, columns, band)
    if seen.any() and not seen.all():
        assert len(found) == 1
        own = found[0].turned if side == "turned" else found[0]
        np.testing.assert_array_equal(_seen(rows, columns, own), seen)
    else:
        assert found == []
    name = {"left": "x", "turned": "x", "right": "y", "sums": "z"}[side]
    wide = {each: array.astype(np.float64) for each, array in arrays.items()}
    wide[name] = wide[name] * seen
    wanted = (wide["x"].swapaxes(1, 2) if side == "turned" else wide["x"]) @ wide["y"]
    wanted = wanted * wide["z"] if side == "sums" else wanted
    np.testing.assert_allclose(_run(graph, arrays)[0], wanted, atol=1e-4, rtol=1e-4)


def test_a_mask_for_all_matrices(rng: np.random.Generator) -> None:
    """Sums that become zeros where a mask without a band says so, which every matrix reads."""
    b = GraphBuilder("masked")
    x, y = _input(b, "x", 3, 48, 64), _input(b, "y", 64, 96)
    seen = rng.random((48, 96)) < 0.7
    seen[0, -1] = seen[-1, 0] = True
    mask = b.apply("broadcast_to", b.constant(seen), shape=(3, 48, 96))
    zeros = b.apply("full", shape=(3, 48, 96), value=0.0, dtype=f32)
    graph = b.finish([b.apply("select", mask, b.apply("matmul", x, y), zeros)])
    arrays = {
        "x": rng.standard_normal((3, 48, 64)).astype(np.float32),
        "y": rng.standard_normal((64, 96)).astype(np.float32),
    }
    wanted = np.where(seen, arrays["x"].astype(np.float64) @ arrays["y"], 0)
    np.testing.assert_allclose(_run(graph, arrays)[0], wanted, atol=1e-4, rtol=1e-4)


def test_infinities_that_zeros_meet_stay_where_they_are() -> None:
    b = GraphBuilder("infinite")
    x, y = _input(b, "x", 64, 64), _input(b, "y", 64, 32)
    graph = b.finish([b.apply("matmul", _kept(b, x, Band(0, 63)), y)], ["out"])
    arrays = {"x": np.ones((64, 64), np.float32), "y": np.ones((64, 32), np.float32)}
    arrays["y"][63] = inf
    (found,) = _run(graph, arrays)
    np.testing.assert_array_equal(found[:40], np.broadcast_to(np.arange(1, 41)[:, None], (40, 32)))
    assert np.isinf(found[63]).all()


def _attention(b: GraphBuilder, scores: Value, v: Value) -> Value:
    return b.apply("matmul", softmax(b, scores, (scores.type.rank - 1,)), v)


def _gradients(b: GraphBuilder, out: Value, values: list[Value]) -> Graph:
    g = _input(b, "g", *out.type.static_shape)
    loss = b.apply("reduce_sum", b.apply("mul", out, g), axes=tuple(range(out.type.rank)))
    return b.finish([out, *gradients(b, loss, values)])


def _scores(b: GraphBuilder, q: Value, k: Value) -> Value:
    rank = q.type.rank
    order = (*range(rank - 2), rank - 1, rank - 2)
    return b.apply("matmul", q, b.apply("transpose", k, permutation=order))


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("rows", "keys", "band"),
    [(128, 128, Band(0, 127)), (37, 50, Band(13, 36)), (200, 200, Band(0, 20))],
)
def test_a_masked_attention_and_its_gradients(
    rows: int, keys: int, band: Band, added: bool, rng: np.random.Generator
) -> None:
    torch: Any = pytest.importorskip("torch")
    shapes = {"q": (2, 3, rows, 24), "k": (2, 3, keys, 24), "v": (2, 3, keys, 40)}
    b = GraphBuilder("attention")
    q, k, v = (_input(b, name, *shape) for name, shape in shapes.items())
    shapes["g"] = (2, 3, rows, 40)
    seen = _seen(rows, keys, band)
    mask = np.where(seen, 0, -inf).astype(np.float32)
    scores = _scores(b, q, k)
    if added:
        given = b.apply("broadcast_to", b.constant(mask), shape=scores.type.shape)
        scores = b.apply("add", scores, given)
    else:
        scores = _kept(b, scores, band, -inf)
    graph = _gradients(b, _attention(b, scores, v), [q, k, v])
    assert len(_bands(graph)) == 6
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    found = _run(graph, arrays)
    x, y, z = (
        torch.tensor(arrays[name], dtype=torch.float64, requires_grad=True) for name in "qkv"
    )
    weights = torch.softmax(x @ y.transpose(-1, -2) + torch.tensor(mask), -1)
    out = weights @ z
    out.backward(torch.tensor(arrays["g"]))
    for ours, theirs in zip(found, (out.detach(), x.grad, y.grad, z.grad), strict=True):
        wanted = theirs.numpy()
        assert np.linalg.norm(ours - wanted) < 1e-6 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("band", "lowest"), [(Band(-1, 63), -inf), (Band(0, 63), -1e30)])
def test_weights_that_may_not_be_zero_are_multiplied(band: Band, lowest: float) -> None:
    """A row that is hidden altogether; hidden scores that are as low as all others may be."""
    b = GraphBuilder("attention")
    q, k, v = (_input(b, name, 64, 16) for name in "qkv")
    graph = b.finish([_attention(b, _kept(b, _scores(b, q, k), band, lowest), v)])
    assert all(bands.left is None for bands in _bands(graph))


def test_numbers_that_overflow_without_their_scores_have_all_of_them() -> None:
    """Weights by the exponential of unmasked scores, of which each is near -100."""
    b = GraphBuilder("weights")
    q, k, p = _input(b, "q", 64, 16), _input(b, "k", 64, 16), _input(b, "p", 64, 64)
    hundred = b.apply("full", shape=(64, 64), value=100.0, dtype=f32)
    weights = b.apply("exp", b.apply("add", _scores(b, q, k), hundred))
    graph = b.finish([b.apply("mul", weights, _kept(b, p, Band(0, 63)))])
    (found,) = _run(
        graph,
        {
            "q": np.ones((64, 16), np.float32),
            "k": np.full((64, 16), -6.25, np.float32),
            "p": np.ones((64, 64), np.float32),
        },
    )
    np.testing.assert_array_equal(found, np.tril(np.ones((64, 64))))


def test_rows_of_zeros_over_their_sum_are_not_numbers() -> None:
    b = GraphBuilder("shares")
    x, v = _input(b, "x", 64, 64), _input(b, "v", 64, 16)
    kept = _kept(b, x, Band(-40, 63))
    sums = b.apply("reshape", b.apply("reduce_sum", kept, axes=(1,)), shape=(64, 1))
    shares = b.apply("div", kept, b.apply("broadcast_to", sums, shape=(64, 64)))
    graph = b.finish([b.apply("matmul", shares, v)])
    ones = {"x": np.ones((64, 64), np.float32), "v": np.ones((64, 16), np.float32)}
    (found,) = _run(graph, ones)
    assert np.isnan(found[:40]).all()
    np.testing.assert_allclose(found[40:], 1, rtol=1e-6)


def test_what_depends_on_sizes_of_the_run_is_no_mask() -> None:
    """Starts of slices, and numbers, that are symbols: only their types are known."""
    b = GraphBuilder("sizes")
    x, y = _input(b, "x", 8, 16), _input(b, "y", 16, 12)
    seen = b.input("seen", TensorType(f32, (dims.symbol("n"),)))
    n = seen.type.shape[0]
    table = b.constant(np.arange(640, dtype=np.float32).reshape(40, 16))
    rows = b.apply("slice", table, starts=(n, 0), shape=(8, 16), steps=(1, 1))
    size = b.apply("broadcast_to", b.apply("sizes", sizes=(n,)), shape=(8, 16))
    places = b.apply("iota", shape=(8, 16), axis=1, dtype=i64)
    mask = b.apply("lt", places, size)
    zeros = b.apply("full", shape=(8, 16), value=0.0, dtype=f32)
    kept = b.apply("select", mask, b.apply("add", x, rows), zeros)
    graph = b.finish([b.apply("matmul", kept, y), b.apply("reduce_sum", seen, axes=(0,))])
    arrays = {"x": np.ones((8, 16)), "y": np.ones((16, 12)), "seen": np.ones(5)}
    found, _ = bessemer.compile(graph).run({k: a.astype(np.float32) for k, a in arrays.items()})
    wanted = (1 + np.arange(640).reshape(40, 16)[5:13, :5]).sum(1, keepdims=True)
    np.testing.assert_array_equal(found, np.broadcast_to(wanted, (8, 12)))


@pytest.mark.parametrize("band", [Band(0, 20), Band(40, -30)])
def test_items_that_add_nothing_up_touch_what_others_do(band: Band) -> None:
    """The last rows of a product, or the first ones, are not read. A chain asks all items."""
    b = GraphBuilder("product")
    x, y = _input(b, "x", 4000, 64), _input(b, "y", 64, 64)
    graph = b.finish([_kept(b, b.apply("matmul", x, y), band)])
    spans = spans_of(kernels_of(build_program(graph, x86.AVX512).steps)[-1], 4000 * 64 * 4)
    assert spans is not None and len(spans) == 2
    for span in spans.values():
        assert (span.low >= 0).all() and (span.low <= span.high).all()
        assert (span.high < 4000 * 64).all()


def test_scores_that_something_else_reads_are_computed() -> None:
    b = GraphBuilder("attention")
    q, k, v = (_input(b, name, 64, 16) for name in "qkv")
    scores = _scores(b, q, k)
    graph = b.finish([_attention(b, _kept(b, scores, Band(0, 63), -inf), v), scores])
    assert [bands.sums for bands in _bands(graph)] == [None]
