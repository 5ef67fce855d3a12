"""precision="bfloat16": an attention multiplies rounded numbers, its softmax is float32. And
networks whose own numbers are of 16 bits."""

import ml_dtypes
import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.types import Array, DType, TensorType, bf16, f16, f32
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from bessemer.compiler.targets.choose import host_target
from tests.schedule.test_attention import (
    B,
    S,
    Shape,
    T,
    _arrays,
    _attention,
    _kernels,
    _reference,
    _run,
    _scaled,
    _softmax,
)

needs_bfloat16 = pytest.mark.skipif(
    not host_target().has_dot_bf16, reason="this machine does not multiply bfloat16 numbers"
)
ROUNDED = Options(precision="bfloat16")


def _quarter(scores: Array) -> Array:
    return scores * 0.25


def _rounded(array: Array) -> Array:
    return np.asarray(array.astype(ml_dtypes.bfloat16), np.float32)


def _error(got: Array, want: Array) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def _assert_only_weights_are_rounded(shape: Shape, arrays: dict[str, Array], got: Array) -> None:
    """What is left is what rounding the softmax's result leaves: at most half a unit of 8 bits."""
    kept = {name: a if name == "mask" else _rounded(a) for name, a in arrays.items()}
    np.testing.assert_array_equal(np.isnan(got), np.isnan(_reference(shape, kept, _quarter)))
    want = np.nan_to_num(_reference(shape, kept, _quarter))
    assert 1e-5 < _error(np.nan_to_num(got), want) < 2**-8


SHAPES = {
    "odd keys": Shape(rows=37, keys=21, depth=9),
    "grouped heads": Shape(heads=6, group=3, rows=40, keys=64, depth=32, columns=32),
    "several blocks": Shape(batch=1, heads=2, rows=197, keys=197, depth=64, columns=64),
    "many keys": Shape(batch=1, heads=1, rows=17, keys=3100, depth=4, columns=3),
}


@needs_bfloat16
@pytest.mark.parametrize(
    ("name", "symbolic"),
    [("odd keys", True), ("grouped heads", True), ("several blocks", False), ("many keys", False)],
)
def test_products_are_of_rounded_numbers(name: str, symbolic: bool) -> None:
    shape, mask = SHAPES[name], (1, 1, 1, T)
    known: tuple[Size, ...] = (1, 1, 1, shape.keys)
    compiled = build(_attention(shape, _scaled, symbolic, mask if symbolic else known), ROUNDED)
    names = [name.split("_")[0] for name in _kernels(compiled)]
    assert names[-3:] == ["pack", "pack", "attention"] and set(names[:-3]) == {"cast"}
    arrays = _arrays(shape)
    arrays["mask"] = np.where(np.arange(shape.keys) % 5 == 2, -np.inf, 0.5)
    arrays["mask"] = arrays["mask"].astype(np.float32).reshape(1, 1, 1, -1)
    _assert_only_weights_are_rounded(shape, arrays, _run(compiled, arrays))


@needs_bfloat16
def test_one_model_has_a_form_for_few_rows_and_one_for_many_and_a_row_may_have_no_key() -> None:
    whole = Shape(batch=2, heads=3, rows=24, keys=70, depth=20, columns=9)
    compiled = build(_attention(whole, _scaled, True, (B, 1, S, T)), ROUNDED)
    model = load_code(compiled.code, compiled.weights, machine_of(compiled.target), 2)
    for rows in (1, 2, 9, 24):
        shape = Shape(batch=2, heads=3, rows=rows, keys=70, depth=20, columns=9)
        arrays = _arrays(shape)
        arrays["mask"] = np.tril(np.zeros((2, 1, rows, 70), np.float32), 70 - rows)
        arrays["mask"][1, 0, 0] = -np.inf
        (got,) = model.run(arrays)
        _assert_only_weights_are_rounded(shape, arrays, got)


@needs_bfloat16
def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    shape = Shape(batch=1, heads=4, rows=150, keys=91, depth=32, columns=32)
    compiled = build(_attention(shape, _scaled, False), ROUNDED)
    arrays = _arrays(shape)
    one, two = (_run(compiled, arrays, threads) for threads in (1, 2))
    assert one.tobytes() == two.tobytes()


def _decoder(rows: Size) -> Compilation:
    """Keys that are rotated by their positions and joined with those of earlier steps."""
    b = GraphBuilder("decoder")
    query = b.input("q", TensorType(f32, (2, rows, 32)))
    key = b.input("k", TensorType(f32, (2, rows, 32)))
    rotations = b.input("rotations", TensorType(f32, (rows, 32)))
    rotated = b.apply("mul", key, b.apply("broadcast_to", rotations, shape=key.type.shape))
    joined = [
        b.apply("concat", b.input(name, TensorType(f32, (2, T, 32))), new, axis=1)
        for name, new in (("past_k", rotated), ("past_v", key))
    ]
    scores = b.apply("matmul", query, b.apply("transpose", joined[0], permutation=(0, 2, 1)))
    result = b.apply("matmul", _softmax(b, scores), joined[1])
    return build(b.finish([result, *joined]), ROUNDED)


@needs_bfloat16
def test_keys_that_a_decoder_keeps_stay_float32() -> None:
    rng = np.random.default_rng(0)
    compiled = _decoder(S)
    # What is rounded by a kernel of its own is the query; keys and values are when they are packed.
    assert sum("cast" in name for name in _kernels(compiled)) == 1
    model = load_code(compiled.code, compiled.weights, machine_of(compiled.target), 1)
    for rows, past in ((1, 40), (30, 0), (20, 13)):
        q, k = (rng.standard_normal((2, rows, 32), np.float32) for _ in range(2))
        old_k, old_v = (rng.standard_normal((2, past, 32), np.float32) for _ in range(2))
        rotations = rng.standard_normal((rows, 32), np.float32)
        got, keys, values = model.run(
            {"q": q, "k": k, "rotations": rotations, "past_k": old_k, "past_v": old_v}
        )
        np.testing.assert_array_equal(keys, np.concatenate([old_k, k * rotations], 1))
        np.testing.assert_array_equal(values, np.concatenate([old_v, k], 1))
        shape = Shape(batch=2, heads=1, rows=rows, keys=rows + past, depth=32, columns=32)
        want = _reference(
            shape, {"q": _rounded(q), "k": _rounded(keys), "v": _rounded(values)}, lambda s: s
        )
        assert _error(got, want) < 2**-8


@needs_bfloat16
def test_machines_without_such_products_compute_attention_in_float32() -> None:
    shape = Shape(rows=20)
    options = Options(precision="bfloat16", target="x86_64-avx2")
    compiled = build(_attention(shape, _scaled, False), options)
    arrays = _arrays(shape)
    assert _error(_run(compiled, arrays), _reference(shape, arrays, _quarter)) < 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(f16, 2e-3), (bf16, 2e-2)], ids=["f16", "bf16"])
def test_a_softmax_of_16_bits(dtype: DType, tolerance: float) -> None:
    """Its totals are of 16 bits, the products' sums are not."""
    b = GraphBuilder("half")
    shapes = {"q": (2, 24, 16), "k": (2, 16, 33), "v": (2, 33, 8)}
    q, k, v = (b.input(name, TensorType(dtype, shape)) for name, shape in shapes.items())
    product = b.apply("matmul", _softmax(b, b.apply("matmul", q, k)), v)
    made = build(b.finish([product]), Options())
    assert any("attention" in kernel for kernel in _kernels(made))
    rng = np.random.default_rng(2)
    arrays = {n: (rng.standard_normal(s) / 2).astype(dtype.numpy) for n, s in shapes.items()}
    (got,) = load_code(made.code, made.weights, machine_of(made.target), 2).run(arrays)
    left, keys, values = (array.astype(np.float64) for array in arrays.values())
    weights = np.exp(left @ keys)
    want = weights / weights.sum(-1, keepdims=True) @ values
    assert _error(np.asarray(got, np.float64), want) < tolerance
