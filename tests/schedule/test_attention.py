"""Attention becomes one kernel where it can, and computes what NumPy computes in float64."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.fit_memory import Fitted
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array, DType, TensorType, f32, f64
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from tests.planned import planned

B, S, T = symbol("batch"), symbol("rows"), symbol("keys")
Score = Callable[[GraphBuilder, Value], Value]


@dataclass(frozen=True)
class Shape:
    """Sizes of an attention; `group` query heads share keys and values."""

    batch: int = 2
    heads: int = 4
    rows: int = 13
    keys: int = 21
    depth: int = 8
    columns: int = 12
    group: int = 1

    @property
    def symbols(self) -> dict[str, int]:
        return {"batch": self.batch, "rows": self.rows, "keys": self.keys}


def _last(b: GraphBuilder, name: str, x: Value) -> Value:
    """A reduction over the keys, spread over them again."""
    axis = x.type.rank - 1
    kept = b.apply("reshape", b.apply(name, x, axes=(axis,)), shape=(*x.type.shape[:-1], 1))
    return b.apply("broadcast_to", kept, shape=x.type.shape)


def _softmax(b: GraphBuilder, x: Value) -> Value:
    e = b.apply("exp", b.apply("sub", x, _last(b, "reduce_max", x)))
    return b.apply("div", e, _last(b, "reduce_sum", e))


def _scaled(b: GraphBuilder, x: Value) -> Value:
    factor = b.apply("full", shape=x.type.shape, value=0.25, dtype=f32)
    return b.apply("mul", x, factor)


def _heads(b: GraphBuilder, x: Value, rows: Size, heads: int) -> Value:
    """[batch, rows, heads * depth] as [batch, heads, rows, depth]."""
    depth = x.type.shape[-1] // heads
    y = b.apply("reshape", x, shape=(x.type.shape[0], rows, heads, depth))
    return b.apply("transpose", y, permutation=(0, 2, 1, 3))


def _attention(
    shape: Shape, score: Score, symbolic: bool, mask: tuple[Size, ...] | None = None
) -> Graph:
    b = GraphBuilder("attention")
    batch, rows, keys = (B, S, T) if symbolic else (shape.batch, shape.rows, shape.keys)
    inner = shape.heads // shape.group
    q = b.input("q", TensorType(f32, (batch, rows, shape.heads * shape.depth)))
    k = b.input("k", TensorType(f32, (batch, keys, inner * shape.depth)))
    v = b.input("v", TensorType(f32, (batch, keys, inner * shape.columns)))
    query = _heads(b, q, rows, shape.heads)
    key, value = _heads(b, k, keys, inner), _heads(b, v, keys, inner)
    if shape.group > 1:
        key, value = (_repeated(b, x, shape.group) for x in (key, value))
    transposed = b.apply("transpose", key, permutation=(0, 1, 3, 2))
    scores = score(b, b.apply("matmul", query, transposed))
    if mask is not None:
        given = b.input("mask", TensorType(f32, mask))
        scores = b.apply("add", scores, b.apply("broadcast_to", given, shape=scores.type.shape))
    y = b.apply("matmul", _softmax(b, scores), value)
    y = b.apply("transpose", y, permutation=(0, 2, 1, 3))
    return b.finish([b.apply("reshape", y, shape=(batch, rows, shape.heads * shape.columns))])


def _repeated(b: GraphBuilder, x: Value, group: int) -> Value:
    batch, heads, keys, depth = x.type.shape
    y = b.apply("reshape", x, shape=(batch, heads, 1, keys, depth))
    y = b.apply("broadcast_to", y, shape=(batch, heads, group, keys, depth))
    return b.apply("reshape", y, shape=(batch, heads * group, keys, depth))


def _reference(shape: Shape, arrays: dict[str, Array], change: Callable[[Any], Any]) -> Array:
    def heads(x: Any, count: int) -> Any:
        return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3).astype(np.float64)

    inner = shape.heads // shape.group
    q = heads(arrays["q"], shape.heads)
    k, v = (np.repeat(heads(arrays[n], inner), shape.group, axis=1) for n in "kv")
    scores = change(q @ k.swapaxes(-1, -2))
    if "mask" in arrays:
        scores = scores + arrays["mask"]
    with np.errstate(invalid="ignore"):
        e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y: Array = (e / e.sum(axis=-1, keepdims=True)) @ v
    return y.transpose(0, 2, 1, 3).reshape(shape.batch, shape.rows, -1)


def _arrays(shape: Shape) -> dict[str, Array]:
    rng = np.random.default_rng(shape.rows)
    inner = shape.heads // shape.group
    widths = {"q": shape.heads * shape.depth, "k": inner * shape.depth, "v": inner * shape.columns}
    lengths = {"q": shape.rows, "k": shape.keys, "v": shape.keys}
    return {
        name: rng.standard_normal((shape.batch, lengths[name], width), np.float32)
        for name, width in widths.items()
    }


def _kernels(compiled: Compilation | Fitted) -> list[str]:
    return [s.kernel.name for s in compiled.program.steps if isinstance(s, Launch)]


def _run(compiled: Compilation, arrays: dict[str, Array], threads: int = 1) -> Array:
    model = load_code(compiled.code, compiled.weights, machine_of(compiled.target), threads)
    (result,) = model.run(arrays)
    return result


def _assert_close(got: Array, want: Array) -> None:
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


SHAPES = {
    "small": Shape(),
    "nine rows": Shape(rows=9, keys=600),
    "no whole number of blocks": Shape(batch=1, rows=197, keys=197, depth=16, columns=16),
    "grouped heads": Shape(heads=6, group=3, keys=33),
    "many keys": Shape(batch=1, heads=1, rows=17, keys=3100, depth=4, columns=3),
    "one head": Shape(batch=1, heads=1, rows=70, keys=2),
}


@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_one_kernel_besides_packing(name: str, symbolic: bool) -> None:
    shape = SHAPES[name]
    compiled = build(_attention(shape, _scaled, symbolic), Options())
    assert [n.split("_")[0] for n in _kernels(compiled)] == ["pack", "pack", "attention"]
    arrays = _arrays(shape)
    _assert_close(_run(compiled, arrays), _reference(shape, arrays, lambda s: s * 0.25))


@pytest.mark.parametrize("heads", [2, 6], ids=["own keys", "grouped heads"])
def test_a_few_rows_read_keys_and_values_where_they_lie(heads: int) -> None:
    shape = Shape(rows=2, keys=37, heads=heads, group=heads // 2)
    compiled = build(_attention(shape, _scaled, symbolic=False), Options())
    assert not any(name.startswith("pack") for name in _kernels(compiled))
    arrays = _arrays(shape)
    _assert_close(_run(compiled, arrays), _reference(shape, arrays, lambda s: s * 0.25))


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    ("rows", "keys", "is_packed"),
    [(9, 96, False), (9, 90, True), (90, 96, True), (25, 1024, False), (29, 1024, True)],
)
def test_keys_of_one_block_of_rows_are_packed_panel_by_panel(
    group: int, rows: int, keys: int, is_packed: bool
) -> None:
    shape = Shape(rows=rows, keys=keys, depth=24, group=group)
    made = planned(_attention(shape, _scaled, False), "x86_64-avx512")
    count = sum(name.startswith("pack") for name in _kernels(made))
    assert count == 1 + is_packed  # the values
    arrays = _arrays(shape)
    got = _run(build(_attention(shape, _scaled, False), Options()), arrays, threads=2)
    _assert_close(got, _reference(shape, arrays, lambda x: 0.25 * x))


@pytest.mark.parametrize("group", [1, 3], ids=["own values", "shared values"])
def test_values_of_a_head_after_the_other_are_not_packed(group: int) -> None:
    heads, columns = 3, 64
    b = GraphBuilder("kept")
    q = b.input("q", TensorType(f32, (B, heads, S, 8)))
    k = b.input("k", TensorType(f32, (B, heads, 8, T)))
    v = b.input("v", TensorType(f32, (B, heads // group, T, columns)))
    y = b.apply("matmul", _softmax(b, b.apply("matmul", q, k)), _repeated(b, v, group))
    compiled = build(b.finish([y]), Options())
    assert [n.split("_")[0] for n in _kernels(compiled)] == ["pack", "attention"]
    model = load_code(compiled.code, compiled.weights, machine_of(compiled.target), 2)
    for rows in (1, 9, 31):
        sizes = ((2, heads, rows, 8), (2, heads, 8, 37), (2, heads // group, 37, columns))
        arrays = [np.random.default_rng(rows).standard_normal(n, np.float32) for n in sizes]
        (got,) = model.run(arrays)
        _assert_close(got, _attended(*arrays))


@pytest.mark.parametrize("front", [(), (2, 1)])
def test_values_may_have_more_matrices_than_there_are_weights(front: tuple[int, ...]) -> None:
    b = GraphBuilder("shared")
    shapes = ((*front, 20, 8), (*front, 8, 30), (*front[:-1], 3, 30, 16))
    q, k, v = (b.input(n, TensorType(f32, shape)) for n, shape in zip("qkv", shapes))
    y = b.apply("matmul", _softmax(b, b.apply("matmul", q, k)), v)
    compiled = build(b.finish([y]), Options())
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    _assert_close(_run(compiled, dict(zip("qkv", arrays))), _attended(*arrays))


def _attended(q: Array, k: Array, v: Array) -> Array:
    """In float64."""
    scores = q.astype(np.float64) @ k
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = e / e.sum(axis=-1, keepdims=True)
    result: Array = weights @ v
    return result


@pytest.mark.parametrize("group", [1, 3], ids=["own keys", "grouped heads"])
@pytest.mark.parametrize("mask", [None, (B, 1, S, T)], ids=["", "mask"])
def test_one_model_has_a_form_for_few_rows_and_one_for_many(
    group: int, mask: tuple[Size, ...] | None
) -> None:
    whole = Shape(batch=2, heads=3, keys=70, depth=20, columns=9, group=group)
    compiled = build(_attention(whole, _scaled, True, mask), Options())
    model = load_code(compiled.code, compiled.weights, machine_of(compiled.target), 2)
    for rows in (1, 2, 3, 4, 30, 1):
        shape = replace(whole, rows=rows)
        arrays = _arrays(shape)
        if mask is not None:
            arrays["mask"] = np.linspace(-3, 3, 2 * rows * 70, dtype=np.float32)
            arrays["mask"] = arrays["mask"].reshape(2, 1, rows, 70)
        (got,) = model.run(arrays)
        _assert_close(got, _reference(shape, arrays, lambda s: s * 0.25))


@pytest.mark.parametrize(
    "axes", [(0, 1, 2, 3), (0, 3), (2, 3), (3,), ()], ids=lambda axes: f"mask{axes}"
)
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
def test_masks_have_any_shape(axes: tuple[int, ...], symbolic: bool) -> None:
    shape = Shape(rows=17, keys=19)
    sizes: tuple[Size, ...] = (shape.batch, shape.heads, shape.rows, shape.keys)
    named: tuple[Size, ...] = (B, shape.heads, S, T) if symbolic else sizes
    mask = tuple(size if axis in axes else 1 for axis, size in enumerate(named))
    compiled = build(_attention(shape, _scaled, symbolic, mask), Options())
    assert _kernels(compiled)[-1].startswith("attention")
    arrays = _arrays(shape)
    real = [int(str(s)) if a in axes else 1 for a, s in enumerate(sizes)]
    hidden = np.random.default_rng(3).random(real) < 0.3
    arrays["mask"] = np.where(hidden, np.float32(-40), np.float32(0.5))
    _assert_close(_run(compiled, arrays), _reference(shape, arrays, lambda s: s * 0.25))


def test_a_row_without_any_key_is_what_the_reference_gives() -> None:
    shape = Shape(batch=1, heads=1, rows=4, keys=6)
    compiled = build(_attention(shape, _scaled, False, (1, 1, 4, 6)), Options())
    arrays = _arrays(shape)
    arrays["mask"] = np.zeros((1, 1, 4, 6), np.float32)
    arrays["mask"][0, 0, 1] = -np.inf
    arrays["mask"][0, 0, 2, 1:] = -np.inf
    want = _reference(shape, arrays, lambda s: s * 0.25)
    assert np.isnan(want[0, 1]).all()
    _assert_close(_run(compiled, arrays), want)


@pytest.mark.parametrize("rows", [1, 13])
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
def test_without_any_keys_the_result_is_zero(rows: int, symbolic: bool) -> None:
    shape = Shape(rows=rows, keys=0)
    compiled = build(_attention(shape, _scaled, symbolic), Options())
    got = _run(compiled, _arrays(shape))
    np.testing.assert_array_equal(got, np.zeros((2, rows, shape.heads * shape.columns)))


def test_scores_that_differ_by_hundreds_do_not_overflow() -> None:
    shape = Shape(batch=1, heads=2, rows=9, keys=50)
    compiled = build(_attention(shape, _scaled, True), Options())
    arrays = _arrays(shape)
    arrays["q"] *= 400
    got, want = _run(compiled, arrays), _reference(shape, arrays, lambda s: s * 0.25)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scored", [f32, f64], ids=["scores in f32", "scores in f64"])
def test_products_of_two_types_are_right(scored: DType) -> None:
    b = GraphBuilder("mixed")
    x = b.input("x", TensorType(f32, (2, 20, 12)))
    wide = b.apply("cast", x, dtype=f64)
    q, v = (x, wide) if scored is f32 else (wide, x)
    scores = b.apply("matmul", q, b.apply("transpose", q, permutation=(0, 2, 1)))
    weights = _softmax(b, b.apply("cast", scores, dtype=v.type.dtype))
    compiled = build(b.finish([b.apply("matmul", weights, v)]), Options())
    given = np.random.default_rng(1).standard_normal((2, 20, 12), np.float32)
    e = np.exp(given.astype(np.float64) @ given.swapaxes(1, 2))
    _assert_close(_run(compiled, {"x": given}), e / e.sum(axis=-1, keepdims=True) @ given)


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    shape = Shape(batch=3, heads=4, rows=150, keys=90, depth=32, columns=32)
    for symbolic in (False, True):
        compiled = build(_attention(shape, _scaled, symbolic), Options())
        arrays = _arrays(shape)
        one, two = (_run(compiled, arrays, threads) for threads in (1, 2))
        assert one.tobytes() == two.tobytes()


def _plain(b: GraphBuilder, x: Value, y: Value, z: Value) -> tuple[Value, Value, Value]:
    scores = b.apply("matmul", x, y)
    weights = _softmax(b, scores)
    return scores, weights, b.apply("matmul", weights, z)


@pytest.mark.parametrize("also", ["scores", "weights"])
def test_what_others_read_is_not_hidden_in_it(also: str) -> None:
    b = GraphBuilder("shown")
    inputs = [b.input(name, TensorType(f32, (2, 5, 5))) for name in "xyz"]
    scores, weights, result = _plain(b, *inputs)
    shown = scores if also == "scores" else weights
    compiled = build(b.finish([result, shown]), Options())
    assert not any(name.startswith("attention") for name in _kernels(compiled))
    rng = np.random.default_rng(0)
    x, y, z = (rng.standard_normal((2, 5, 5), np.float32) for _ in range(3))
    model = load_code(compiled.code, compiled.weights, machine_of(compiled.target), 1)
    got, got_shown = model.run({"x": x, "y": y, "z": z})
    s = x.astype(np.float64) @ y
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    _assert_close(got, p @ z)
    _assert_close(got_shown, s if also == "scores" else p)


PLACES = np.random.default_rng(0).permutation(21)


def _reversed(b: GraphBuilder, x: Value) -> Value:
    last = x.type.rank - 1
    starts = (*(0 for _ in range(last)), x.type.static_shape[last] - 1)
    steps = (*(1 for _ in range(last)), -1)
    return b.apply("slice", x, starts=starts, shape=x.type.shape, steps=steps)


def _looked_up(b: GraphBuilder, x: Value, each: bool) -> Value:
    if not each:
        return b.apply("gather", x, b.constant(PLACES), axis=3)
    places = np.ascontiguousarray(np.broadcast_to(PLACES, x.type.static_shape))
    return b.apply("gather_elements", x, b.constant(places), axis=3)


def _less_than_others(b: GraphBuilder, x: Value) -> Value:
    """How many scores of the row are higher."""
    *batch, keys = x.type.shape
    one, other = (
        b.apply(
            "broadcast_to", b.apply("reshape", x, shape=(*batch, *ends)), shape=(*batch, keys, keys)
        )
        for ends in ((keys, 1), (1, keys))
    )
    higher = b.apply("cast", b.apply("lt", one, other), dtype=f32)
    return b.apply("reduce_sum", higher, axes=(x.type.rank,))


MOVED: dict[str, tuple[Score, Callable[[Any], Any]]] = {
    "reversed": (_reversed, lambda s: s[..., ::-1]),
    "both ways": (lambda b, s: b.apply("add", s, _reversed(b, s)), lambda s: s + s[..., ::-1]),
    "looked up": (lambda b, s: _looked_up(b, s, False), lambda s: s[..., PLACES]),
    "each looked up": (lambda b, s: _looked_up(b, s, True), lambda s: s[..., PLACES]),
    "ranked": (_less_than_others, lambda s: (s[..., :, None] < s[..., None, :]).sum(-1)),
}


@pytest.mark.parametrize("name", MOVED)
def test_weights_of_other_keys_scores_are_not_written_over_them(name: str) -> None:
    score, change = MOVED[name]
    shape = Shape(batch=1, heads=2)
    compiled = build(_attention(shape, score, False), Options())
    arrays = _arrays(shape)
    _assert_close(_run(compiled, arrays), _reference(shape, arrays, change))
