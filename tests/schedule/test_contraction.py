"""Products and convolutions through the micro-kernel schedule, against NumPy in float64."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.contraction_axes import product_axes, window_axes
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.expr import Buffer, Expression, constant
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Block, For, If, Prefetch, Statement, Store
from bessemer.compiler.ir.types import DType, f32, f64, i32
from bessemer.compiler.schedule.contraction import tiles
from bessemer.compiler.schedule.contraction.contraction import (
    Contraction,
    DepthAxis,
    RowAxis,
    supports,
    walk_of,
)
from bessemer.compiler.schedule.contraction.cuts import cut_evenly
from bessemer.compiler.schedule.contraction.tiles import plan
from bessemer.compiler.schedule.spans import spans_of
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.choose import host_target
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import HERE as LEVELS
from tests.compiled_kernels import CompiledKernel
from tests.schedule.contraction_cases import (
    PAIRS,
    Array,
    Convolution,
    Prepared,
    Product,
    draft_of,
    prepare,
    random_convolution,
    random_product,
)

HERE = [t for t in x86.TARGETS if set(t.features) <= set(host_target().features)]
each_target = pytest.mark.parametrize(
    "target", (x86.SSE42, x86.AVX512_BF16), ids=lambda target: target.name
)

CASES: tuple[Product | Convolution, ...] = (
    Product(1, 2, 1),
    Product(1, 5, 40),
    Product(2, 17, 33),
    Product(3, 33, 5),
    Product(7, 8, 9),
    Product(13, 3, 2),
    Product(15, 40, 7),
    Product(31, 16, 3),
    Product(17, 50, 4),
    Product(5, 9, 21, dynamic="m"),
    Product(1, 9, 21, dynamic="m"),
    Product(29, 9, 6, dynamic="m"),
    Product(5, 37, 6, dynamic="n"),
    Product(15, 33, 18, dynamic="mnk"),
    Product(3, 4, 2500, dynamic="k"),
    Product(2, 3, 7001),
    Product(1, 4, 14000),
    Product(5, 9, 7, batch=3),
    Product(5, 9, 7, batch=3, shared=True),
    Product(3, 9, 7, batch=3, dynamic="m"),
    Product(5, 6, 7, dtype=f64),
    Convolution((1, 5, 6, 3), 5),
    Convolution((2, 5, 5, 3), 5, (1, 1)),
    Convolution((2, 5, 5, 3), 5, (1, 1), border=1),
    Convolution((3, 4, 4, 4), 9),
    Convolution((1, 9, 9, 4), 9),
    Convolution((3, 9, 8, 2), 3, (3, 2), (2, 3), (2, 1)),
    Convolution((2, 7, 6, 4), 6, groups=2),
    Convolution((1, 4, 16, 2), 33, (2, 2)),
    Convolution((2, 5, 9, 3), 5, dynamic="n"),
    Convolution((2, 5, 11, 3), 5, dynamic="nhw"),
    Convolution((2, 5, 11, 3), 5, (1, 1), dynamic="nhw"),
    Convolution((3, 4, 5, 3), 5, dynamic="n"),
)
NARROW: tuple[Product | Convolution, ...] = tuple(
    case
    for dtype, pair in PAIRS
    for case in (
        Product(3, 33, 5, dtype=dtype, pair=pair),
        Product(1, 5, 41, dtype=dtype, pair=pair),
        Product(15, 33, 18, dynamic="mnk", dtype=dtype, pair=pair),
        Product(4, 9, 7, batch=3, dtype=dtype, pair=pair),
        Convolution((1, 5, 6, 3), 5, dtype=dtype, pair=pair),
        Convolution((2, 7, 6, 4), 6, groups=2, dtype=dtype, pair=pair),
        Convolution((2, 5, 9, 4), 5, dynamic="nhw", dtype=dtype, pair=pair),
    )
)
"""Sums of groups, with and without rests."""

# Deeper sums than several depth blocks are for machine code: the interpreter takes a second each.
INTERPRETED = [c for c in (*CASES, *NARROW) if isinstance(c, Convolution) or c.k <= 2500]
# What a processor has for narrow types changes nothing for the others.
COMPILED = [
    *((case, target) for case in CASES for target in HERE if target in LEVELS),
    *((case, target) for case in NARROW for target in HERE),
]


def _check(prepared: Prepared, result: Array) -> None:
    border = result.shape[1] - prepared.expected.shape[1]
    if border:
        inside = slice(border // 2, -(border // 2))
        result = result[:, inside, inside]
    if result.dtype == np.int32:
        assert np.array_equal(result, prepared.expected)
        return
    error = np.abs(result - prepared.expected)
    assert np.all(error <= 3 * np.finfo(result.dtype).eps * prepared.scale)


@each_target
@pytest.mark.parametrize("case", INTERPRETED, ids=str)
def test_the_schedule_computes_the_sums_that_the_contraction_means(
    case: Product | Convolution, target: Target, rng: np.random.Generator
) -> None:
    prepared = prepare(case, rng)
    kernel, inputs = prepared.kernel(target)
    result = run_kernel(kernel, inputs, prepared.sizes)
    _check(prepared, result.outputs[0])


def _run_compiled(prepared: Prepared, target: Target, threads: int = 2) -> Array:
    """The result of machine code that runs the items in two parts, the second part first."""
    kernel, inputs = prepared.kernel(target, threads)
    out = kernel.buffers[-1]
    shape = tuple(evaluate_named(size, prepared.sizes) for size in out.shape)
    unwritten = np.nan if out.dtype.is_float else -1
    arrays = [*inputs, np.full(shape, unwritten, out.dtype.numpy)]
    compiled = CompiledKernel(kernel, target)
    items = evaluate_named(kernel.parallel_extent, prepared.sizes)
    for part in ((items // 2, items), (0, items // 2)):
        arrays[-1] = compiled(arrays, prepared.sizes, part).arrays[-1]
    return arrays[-1]


@pytest.mark.parametrize(
    ("case", "target"), COMPILED, ids=lambda each: getattr(each, "name", str(each))
)
@pytest.mark.in_turn
def test_machine_code_computes_the_same(
    case: Product | Convolution, target: Target, rng: np.random.Generator
) -> None:
    prepared = prepare(case, rng)
    _check(prepared, _run_compiled(prepared, target))


@pytest.mark.parametrize("number", range(90))
def test_machine_code_for_all_kinds_of_sizes(number: int, rng: np.random.Generator) -> None:
    case = random_product(rng) if number % 2 else random_convolution(rng)
    prepared = prepare(case, rng)
    _check(prepared, _run_compiled(prepared, HERE[number % len(HERE)]))


@pytest.mark.parametrize(("m", "k"), [(1, 4096), (2, 30000), (5, 4608), (128, 3072)])
def test_long_sums_are_as_exact_as_short_ones(m: int, k: int, rng: np.random.Generator) -> None:
    prepared = prepare(Product(m, 40, k), rng)
    difference = _run_compiled(prepared, HERE[-1]) - prepared.expected
    assert np.linalg.norm(difference) < 1e-6 * np.linalg.norm(prepared.expected)


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
def test_results_do_not_depend_on_the_number_of_threads_planned_for(
    target: Target, rng: np.random.Generator
) -> None:
    prepared = prepare(Product(145, 70, 19), rng)
    results = []
    extents = set()
    for threads in (1, 2, 7):
        extents.add(prepared.kernel(target, threads)[0].parallel_extent)
        results.append(_run_compiled(prepared, target, threads))
    assert len(extents) > 1
    assert all(np.array_equal(results[0], other) for other in results[1:])


def _dense(rows: tuple[int, ...]) -> Contraction:
    """A 1x1 convolution to a dense output."""
    a = Buffer("a", f32, (*rows, 8))
    out = Buffer("out", f32, (*rows, 16))

    def epilogue(row: tuple[Size, ...], column: Size, total: Expression) -> tuple[Store, ...]:
        return (Store(out, (*row, column), total),)

    axes, depth = window_axes(a.shape, (1, 1), (1, 1), (1, 1))
    return draft_of(a, axes, depth, 16, epilogue)


def test_the_pixels_of_a_1x1_convolution_are_one_axis() -> None:
    walk = walk_of(_dense((2, 5, 7)), 14)
    assert (walk.outer, walk.axis.extent, walk.inner) == ((), 70, ())
    assert [axis.extent for axis in walk.depth] == [8]


def test_a_row_of_taps_is_one_depth_axis() -> None:
    _, depth = window_axes((1, 9, 9, 4), (3, 3), (1, 1), (1, 1))
    walk = walk_of(replace(_dense((1, 7, 7)), depth=depth), 14)
    assert [(axis.extent, axis.a_stride) for axis in walk.depth] == [(3, 36), (12, 1)]


def test_short_rows_of_pixels_share_a_tile() -> None:
    shape = (1, 9, 9, 4)
    rows, depth = window_axes(shape, (3, 3), (1, 1), (1, 1))
    walk = walk_of(replace(_dense((1, 7, 7)), rows=rows, depth=depth), 14)
    assert walk.axis.extent == 7
    assert walk.unit == 7


def test_static_axes_are_cut_evenly() -> None:
    cut = cut_evenly(49, 14)
    assert (cut.count, cut.height, cut.tall, cut.rest) == (4, 13, 1, 0)


def test_avx512_uses_the_tile_that_fills_its_registers() -> None:
    rows, depth = product_axes((), 1024, 512)
    contraction = replace(_dense((1, 7, 7)), rows=rows, depth=depth, columns=1024)
    tiling = plan(contraction, x86.AVX512)
    assert (tiling.height, tiling.panel) == (14, 32)
    assert plan(contraction, x86.AVX2).height == 6


@pytest.mark.parametrize(
    ("columns", "lanes"), [(1, 4), (4, 4), (5, 8), (8, 8), (9, 16), (24, 16), (symbol("n"), 16)]
)
def test_vectors_are_no_wider_than_few_columns(columns: Size, lanes: int) -> None:
    tiling = plan(replace(_dense((1, 7, 7)), columns=columns), x86.AVX512)
    assert (tiling.lanes, tiling.panel % lanes) == (lanes, 0)
    assert plan(replace(_dense((1, 7, 7)), columns=columns), x86.AVX2).lanes == min(lanes, 8)


@pytest.mark.parametrize(
    ("case", "height", "block"),
    [((1024, 1024, 12), 10, 1), ((1024, 1000, 12), 14, 5), ((1024, 1000, 3), 8, 1)],
)
def test_tiles_of_few_steps_go_along_rows(
    case: tuple[int, int, int], height: int, block: int, rng: np.random.Generator
) -> None:
    """Rows of whole KiB are continued soon, and with hardly any steps rows of every length."""
    tiling = plan(prepare(Product(*case), rng).contraction, replace(x86.AVX512, l1_ways=12))
    assert (tiling.height, tiling.block) == (height, block)


@pytest.mark.parametrize(
    ("dtype", "columns", "answer"), [(f32, 16, True), (i32, 16, False), (f32, 1, False)]
)
def test_what_the_schedule_is_for(dtype: DType, columns: int, answer: bool) -> None:
    a, b = Buffer("a", dtype, (4, 4)), Buffer("b", dtype, (16,))
    contraction = replace(_dense((1, 7, 7)), dtype=dtype, a=a, b=b, columns=columns)
    assert supports(contraction) is answer


def _with_fetches_stored(block: Block, name: str, into: Buffer) -> Block:
    """The same statements, but what is asked for of the buffer with this name is marked."""
    found: list[Statement] = []
    for statement in block:
        match statement:
            case Prefetch(buffer, offset) if buffer.name == name:
                found.append(Store(into, (offset,), constant(1, f32)))
            case For(body=body):
                found.append(replace(statement, body=_with_fetches_stored(body, name, into)))
            case If(_, then, otherwise):
                inner = (_with_fetches_stored(part, name, into) for part in (then, otherwise))
                found.append(If(statement.condition, *inner))
            case _:
                found.append(statement)
    return tuple(found)


def _fetched(
    work: Contraction, x: Array, target: Target, rng: np.random.Generator, residual: bool = False
) -> set[int]:
    """The lines of the left operand that a kernel asks for, whose sums are right; as a `residual`,
    it is added to them."""
    (rows,), (run,) = work.rows, work.depth
    m, depth, n = (evaluate_named(s, {}) for s in (rows.extent, run.extent, work.columns))
    out = Buffer("out", f32, (m, n))

    def epilogue(row: tuple[Size, ...], column: Size, total: Expression) -> tuple[Store, ...]:
        total = total + work.a[row[0] * rows.a_stride + column] if residual else total
        return (Store(out, (*row, column), total),)

    left = (x if rows.a_stride != 1 else x.T).astype(np.float64)[:, :depth]
    w = rng.standard_normal((1, depth, n)).astype(np.float32)
    right = w[0].astype(np.float64)
    prepared = Prepared(
        replace(work, epilogue=epilogue),
        (x.ravel() if len(work.a.shape) == 1 else x, w),
        (work.a, work.b, out),
        {},
        left @ right + (left if residual else 0),
        np.abs(left) @ np.abs(right) + (np.abs(left) if residual else 0),
    )
    kernel, inputs = prepared.kernel(target)
    marked = Buffer("marked", f32, (2 * x.size,))
    body = _with_fetches_stored(kernel.body, "a", marked)
    kernel = replace(kernel, buffers=(*kernel.buffers, marked), outputs=2, body=body)
    result, marks = run_kernel(kernel, inputs, {}).outputs
    _check(prepared, result)
    return {int(at) // 16 for at in np.flatnonzero(marks == 1)}


SMALL_CACHE = replace(x86.AVX512, l2_bytes=1 << 10)


def test_rows_that_are_neighbours_are_fetched_while_the_tile_before_is_summed(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient of weights, [depth, m] transposed times [depth, n]: of every line, a tile takes a
    part. All lines are asked for but those of the first depth block of each block's first tile."""
    monkeypatch.setattr(tiles, "LONGEST_SCATTERED", 32)
    monkeypatch.setattr(tiles, "SCATTERED_DEPTH_BLOCK", 16)
    m, depth = 130, 48
    work = draft_of(Buffer("a", f32, (depth, m)), (RowAxis(m, 1),), (DepthAxis(depth, m),), 5)
    tiling = plan(work, SMALL_CACHE)
    assert (tiling.block, tiling.depth_block, cut_evenly(m, tiling.height).height) == (3, 16, 26)
    x = rng.standard_normal((depth, m)).astype(np.float32)
    lines = _fetched(work, x, SMALL_CACHE, rng)
    for line in set(range(depth * m // 16)) - lines:
        step, row = divmod(line * 16, m)
        first, end = (0, 2 * 26) if row < 2 * 26 else (2 * 26, m)
        assert step < 16 and (row < first + 26 or row + 16 > end), (step, row)
    assert not plan(work, x86.AVX512).fetches_rows


@pytest.mark.parametrize("depth", [768, 1600, 3000])
def test_halves_of_the_items_are_halves_of_the_work(depth: int, rng: np.random.Generator) -> None:
    """1024 rows are 62 tiles of 14 and 12 of 13, which no number of large blocks divides."""
    prepared = prepare(Product(1024, 768, depth), rng)
    kernel, _ = prepared.kernel(x86.AVX512)
    spans = spans_of(kernel)
    assert spans is not None
    out = spans[kernel.buffers[-1].name]
    rows = (out.high - out.low) // 768 + 1
    half = len(rows) // 2
    assert len(rows) == 2 * half
    assert abs(rows[:half].sum() / rows.sum() - 0.5) < 0.01


def test_what_an_epilogue_reads_is_fetched_while_sums_are_added_up(
    rng: np.random.Generator,
) -> None:
    """All of it, line by line; nothing where the second cache holds the whole array."""
    m, depth, room = 60, 64, 80
    work = draft_of(
        Buffer("a", f32, (m * room,)), (RowAxis(m, room),), (DepthAxis(depth, 1),), depth
    )
    x = rng.standard_normal((m, room)).astype(np.float32)
    read = {(row * room + column) // 16 for row in range(m) for column in range(depth)}
    assert _fetched(work, x, SMALL_CACHE, rng, residual=True) == read
    assert not _fetched(work, x, SMALL_CACHE, rng)
    assert not _fetched(work, x, x86.AVX512, rng, residual=True)


def test_rows_that_follow_each_other_are_fetched_while_the_tile_before_is_summed(
    rng: np.random.Generator,
) -> None:
    """A convolution with a kernel of 1, or a product: all but the first tile of each block."""
    m, depth = 198, 37
    work = draft_of(Buffer("a", f32, (m, depth)), (RowAxis(m, depth),), (DepthAxis(depth, 1),), 40)
    tiling = plan(work, SMALL_CACHE)
    height = cut_evenly(m, tiling.height).height
    assert (tiling.block, height, m % height) == (6, 9, 0)
    x = rng.standard_normal((m, depth)).astype(np.float32)
    lines = _fetched(work, x, SMALL_CACHE, rng)
    for line in set(range(m * depth // 16)) - lines:
        assert line * 16 // depth % (6 * 9) < 9, line
    assert not plan(work, x86.AVX512).fetches_rows


@pytest.mark.parametrize("is_large", [True, False])
def test_lines_of_a_large_output_are_fetched_before_they_are_written(
    is_large: bool, rng: np.random.Generator
) -> None:
    m, depth, n = 45, 70, 96
    a, out = Buffer("a", f32, (m, depth)), Buffer("out", f32, (m, n))

    def epilogue(row: tuple[Size, ...], column: Size, total: Expression) -> tuple[Store, ...]:
        return (Store(out, (*row, column), total),)

    work = draft_of(a, (RowAxis(m, depth),), (DepthAxis(depth, 1),), n, epilogue)
    x = rng.standard_normal((m, depth)).astype(np.float32)
    w = rng.standard_normal((1, depth, n)).astype(np.float32)
    expected = x.astype(np.float64) @ w[0].astype(np.float64)
    scale = np.abs(x.astype(np.float64)) @ np.abs(w[0].astype(np.float64))
    prepared = Prepared(work, (x, w), (a, work.b, out), {}, expected, scale)
    room = out.dtype.bytes * m * n
    kernel, inputs = prepared.kernel(replace(x86.AVX512, l2_bytes=room + 1 - is_large))
    fetched = Buffer("fetched", f32, (m * n,))
    body = _with_fetches_stored(kernel.body, "out", fetched)
    kernel = replace(kernel, buffers=(*kernel.buffers, fetched), outputs=2, body=body)
    result, marks = run_kernel(kernel, inputs, {}).outputs
    _check(prepared, result)
    lines = range(0, m * n, 64 // out.dtype.bytes) if is_large else ()
    assert np.flatnonzero(marks == 1).tolist() == list(lines)
