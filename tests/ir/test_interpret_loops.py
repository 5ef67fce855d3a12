"""The interpreter of the loop language: what statements and expressions mean."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import expr, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Symbol, atom, symbol
from bessemer.compiler.ir.element import reduction_symbols
from bessemer.compiler.ir.expr import (
    Buffer,
    binary,
    checked,
    constant,
    convert,
    index_value,
)
from bessemer.compiler.ir.interpreter.interpret_loops import OUT_OF_RANGE
from bessemer.compiler.ir.types import (
    DType,
    bf16,
    f32,
    f64,
    i8,
    i32,
    i64,
)
from tests.ir.kernel_runs import run, vector

# Statements


def test_loops_run_in_order_and_parallel_ones_in_any() -> None:
    orders = {}
    for kind in ("serial", "vector", "unroll", "parallel"):
        builder = KernelBuilder()
        out, last = vector("out", i64), Buffer("last", i64, ())
        with builder.loop(5, kind) as i:
            builder.store(out, (i,), index_value(i * i))
            builder.store(last, (), index_value(i))
        result = run(builder, [], [out, last])
        np.testing.assert_array_equal(result.outputs[0], np.arange(5) ** 2)
        orders[kind] = int(result.outputs[1])
    assert orders == {"serial": 4, "vector": 4, "unroll": 4, "parallel": 0}


def test_a_negative_extent_is_none() -> None:
    builder, out = KernelBuilder(), vector("out", i64, 1)
    builder.store(out, (0,), 7)
    with builder.loop(symbol("n") - 3) as i:
        builder.store(out, (0,), index_value(i))
    assert run(builder, [], [out], n=1).outputs[0].tolist() == [7]


def test_while_if_and_locals() -> None:
    """The steps of Collatz' sequence from 27."""
    builder, out = KernelBuilder(), vector("out", i64, 2)
    value = builder.define(constant(27, i64))
    steps = builder.define(constant(0, i64))
    highest = builder.define(constant(0, i64))
    with builder.repeat_while(binary("ne", value.value, 1)):
        with builder.when(binary("eq", value.value % 2, 0)):
            value.set(value.value // 2)
        with builder.otherwise():
            value.set(value.value * 3 + 1)
        steps.accumulate("add", 1)
        highest.accumulate("max", value.value)
    builder.store(out, (0,), steps.value)
    builder.store(out, (1,), highest.value)
    assert run(builder, [], [out]).outputs[0].tolist() == [111, 9232]


def test_a_local_ends_with_its_block() -> None:
    builder, out = KernelBuilder(), vector("out", i64, 1)
    with builder.loop(1):
        inner = builder.define(constant(1, i64))
    builder.store(out, (0,), inner.value)
    with pytest.raises(InternalError, match="no local"):
        run(builder, [], [out])


def test_guards_keep_loads_and_stores_from_memory() -> None:
    builder, x, out = KernelBuilder(), vector("x"), vector("out")
    with builder.loop(7) as i:
        inside = expr.less(i + 2, 5)
        element = expr.load(x, (i + 2,), inside)
        builder.store(out, (i,), element + 1, guard=expr.less(i, 5))
    result = run(builder, [x], [out], [np.arange(5, dtype=np.float32)])
    assert result.outputs[0].tolist() == [3, 4, 5, 1, 1]


@pytest.mark.parametrize("place", [-1, 5])
def test_outside_of_a_buffer_is_an_error(place: int) -> None:
    x, out = vector("x"), vector("out")
    reading, writing = KernelBuilder(), KernelBuilder()
    reading.store(out, (0,), x[place])
    writing.store(out, (place,), x[0])
    for builder in (reading, writing):
        with pytest.raises(InternalError, match=f"element {place} of"):
            run(builder, [x], [out], [np.zeros(5, np.float32)])


def test_inputs_must_be_of_the_right_type_and_number() -> None:
    x, out = vector("x"), vector("out")
    with pytest.raises(InternalError, match="x is f32"):
        run(KernelBuilder(), [x], [out], [np.zeros(5)])
    with pytest.raises(InternalError, match="1 input buffers, but 0 came"):
        run(KernelBuilder(), [x], [out])


def test_what_is_not_written_looks_wrong() -> None:
    builder, out, count = KernelBuilder(), vector("out"), vector("count", i32)
    local = builder.allocate(f32, (5,))
    with builder.loop(4) as i:
        builder.store(local, (i,), 1)
    with builder.loop(5) as i:
        builder.store(out, (i,), local[i])
    result = run(builder, [], [out, count])
    np.testing.assert_array_equal(result.outputs[0], [1, 1, 1, 1, np.nan])
    assert (result.outputs[1] > 2**30).all()


def test_arrays_for_all_buffers_may_be_given_and_are_not_changed() -> None:
    builder, out = KernelBuilder(), vector("out")
    builder.store(out, (1,), 7)
    given = np.zeros(5, np.float32)
    result = run(builder, [], [out], [given])
    assert result.outputs[0].tolist() == [0, 7, 0, 0, 0]
    assert given.tolist() == [0, 0, 0, 0, 0]


def test_strides_say_where_elements_are() -> None:
    builder = KernelBuilder()
    x = Buffer("x", f32, (2, 3), (1, 4))
    out = Buffer("out", f32, (2, 3), (4, 1))
    with builder.loop(2) as i, builder.loop(3) as j:
        builder.store(out, (i, j), x[i, j])
    memory = np.arange(10, dtype=np.float32)
    result = run(builder, [x], [out], [memory])
    assert result.outputs[0].tolist() == [[0, 4, 8], [1, 5, 9]]


def test_symbols_are_sizes_and_a_kernel_may_set_them() -> None:
    builder = KernelBuilder()
    n, kept = symbol("n"), symbol("kept")
    x, out = Buffer("x", i64, (n,)), Buffer("out", i64, (kept,))
    found = builder.define(constant(0, i64))
    with builder.loop(n) as i, builder.when(x[i] > 0):
        builder.store(out, (found.index,), x[i])
        found.set(found.value + 1)
    builder.set_dim("kept", found.value)
    result = run(builder, [x], [out], [np.array([0, 5, -1, 7])], n=4, kept=4)
    assert result.outputs[0].tolist() == [5, 7]
    assert result.symbols == {"n": 4, "kept": 2}


def test_failures_are_collected_once_and_the_kernel_runs_on() -> None:
    builder, x, out = KernelBuilder(), vector("x", i64), vector("out", i64)
    with builder.loop(5) as i:
        builder.fail_if(x[i] > 2, "too large")
        builder.fail_if(x[i] < 0, "negative")
        builder.store(out, (i,), x[i])
    result = run(builder, [x], [out], [np.array([1, 3, 4, 0, 2])])
    assert result.failures == ("too large",)
    assert result.outputs[0].tolist() == [1, 3, 4, 0, 2]


def test_checked_indices_count_from_the_end_and_are_clamped() -> None:
    builder, x, at, out = KernelBuilder(), vector("x", i64), vector("at", i32), vector("out", i64)
    with builder.loop(5) as i:
        builder.store(out, (i,), x[checked(at[i], 5)])
    squares = np.arange(5) ** 2
    fine = run(builder, [x, at], [out], [squares, np.array([0, 4, -1, -5, 2], np.int32)])
    assert fine.outputs[0].tolist() == [0, 16, 16, 0, 4]
    assert fine.failures == ()
    wrong = run(builder, [x, at], [out], [squares, np.array([5, -6, 99, 1, 1], np.int32)])
    assert wrong.outputs[0].tolist() == [16, 0, 16, 1, 1]
    assert wrong.failures == (OUT_OF_RANGE,)


def test_a_reduction_runs_over_all_its_symbols() -> None:
    rows, columns = reduction_symbols((2, 3))
    builder, x, out = KernelBuilder(), Buffer("x", f32, (2, 3)), vector("out", f32, 4)
    body = x[atom(rows), atom(columns)]
    for place, name in enumerate(("add", "mul", "max", "min")):
        builder.store(out, (place,), expr.reduce(name, (rows, columns), body))
    given = np.array([[1, -2, 3], [0.5, 5, -6]], np.float32)
    result = run(builder, [x], [out], [given])
    assert result.outputs[0].tolist() == [1.5, 90, 5, -6]


# Fragments


@pytest.mark.parametrize("source,total", [(f32, f32), (f64, f64), (bf16, f32), (i8, i32)], ids=str)
def test_fragments_multiply_matrices(source: DType, total: DType) -> None:
    rows, depth, columns, limit = 3, 5, 4, 3
    rng = np.random.default_rng(0)
    given = [
        (rng.standard_normal(shape) * 20).astype(source.numpy)
        for shape in ((rows, depth), (depth, columns))
    ]
    a, b = Buffer("a", source, (rows, depth)), Buffer("b", source, (depth, columns))
    out = Buffer("out", total, (rows, columns))
    builder = KernelBuilder()
    column = Symbol("c", columns)
    builder.append(loops.Fragment("acc", rows, columns, total))
    start = convert(index_value(atom(column)), total)
    builder.append(loops.FragmentFill("acc", column, start, limit))
    with builder.loop(depth) as k:
        offsets = tuple(a.offset((row, k)) for row in range(rows))
        builder.append(loops.FragmentMac("acc", (0, 1, 2), a, offsets, b, b.offset((k, 0))))
    stores = tuple(
        (loops.Store(out, (r, atom(column)), expr.fragment_element("acc", r, total) * 2),)
        for r in range(rows)
    )
    builder.append(loops.FragmentStore("acc", column, limit, stores))
    before = np.full((rows, columns), 7, total.numpy)
    result = run(builder, [a, b], [out], [*given, before])
    wide = [array.astype(np.float64) for array in given]
    expected = 2 * (wide[0] @ wide[1] + np.arange(columns))
    expected[:, limit:] = 7
    np.testing.assert_allclose(result.outputs[0], expected, rtol=1e-5)


def test_the_product_in_a_fragment_is_not_rounded() -> None:
    """(1 + e)(1 - e) - 1 is -e*e when the product is exact, and 0 when it is rounded."""
    a, b, out = vector("a", f32, 1), vector("b", f32, 1), vector("out", f32, 1)
    builder = KernelBuilder()
    column = Symbol("c", 1)
    builder.append(loops.Fragment("acc", 1, 1, f32))
    builder.append(loops.FragmentFill("acc", column, constant(-1, f32), 1))
    builder.append(loops.FragmentMac("acc", (0,), a, (0,), b, 0))
    store = loops.Store(out, (0,), expr.fragment_element("acc", 0, f32))
    builder.append(loops.FragmentStore("acc", column, 1, ((store,),)))
    tiny = np.float32(2**-13)
    arrays = [np.array([1 + tiny]), np.array([1 - tiny])]
    assert run(builder, [a, b], [out], arrays).outputs[0][0] == -(2.0**-26)
