"""A matrix unit (AMX): what it can do at most, and our kernels on it beside the same on the vector
unit and beside what the model predicts, which chooses between both.

The limits are what the model's constants stand for (compiler/schedule/matrix_tiles/
matrix_tiles_plan.py): cycles of a product of two tiles, and until its sums can be added to. To
calibrate it on a new machine: PRODUCT is what large kernels took a product; BLOCK what those of
small depth took beyond that, by blocks; SPLIT_NUMBER what splitting took; FUSED is right if the
vector unit's times are as predicted.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.gemm import Work, compile_work, convolution_work, error, product_work
from benchmarks.machine_code import Array, Call, aligned, clock, load, load_kernel, prepared
from benchmarks.plan import Plan
from benchmarks.record import Row
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import bf16, f32
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles import lower_on_tiles
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_layout import parts_layout
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import (
    COLUMNS,
    HALF,
    SPLIT,
    TileForm,
    pack,
)
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_plan import (
    LATENCY,
    PRODUCT,
    SPLIT_NUMBER,
    MatrixTiling,
    plan_tiles,
    tile_cycles,
    vector_cycles,
)
from bessemer.compiler.targets.choose import host_target
from bessemer.compiler.targets.machine import Target
from bessemer.frontends.cli.output import write_note

PRODUCTS = (  # m, n, k
    (512, 512, 512), (1024, 1024, 1024), (3136, 256, 64), (784, 512, 128), (196, 256, 1024),
    (49, 2048, 512), (128, 3072, 768), (16, 1024, 1024),
)  # fmt: skip
LAYERS = ((3, 56, 64, 64, 3, 1, 1), (5, 14, 256, 256, 3, 1, 1))
"""As in benchmarks.gemm.RESNET50."""
FORMS = {"bf16x3": SPLIT, "bf16": HALF}
LIMITS = ("products", "a chain of products", "setting up")
_CHAIN, _MULTIPLY = 8, 3  # dependent integer products of an iteration, and the cycles of each


def measure_matrix_unit(plan: Plan) -> dict[str, Row]:
    """Rows of limits and of kernels; none where this process cannot use such a unit."""
    target = host_target()
    if not target.has_tiles:
        write_note(f"matrix_unit: left out; {target.name} has none, or Linux refuses it")
        return {}
    names = [f"gemm {'x'.join(map(str, shape))}" for shape in PRODUCTS]
    names += [f"conv {layer[1]} {layer[2]}->{layer[3]}" for layer in LAYERS]
    wanted = plan.chosen("matrix_unit", [f"{name} {form}" for form in FORMS for name in names])

    def one(name: str) -> Row:
        if name in LIMITS:
            return measure_limit(name, target, plan.rounds)
        kernel, _, form = name.rpartition(" ")
        place, rng = names.index(kernel), np.random.default_rng(0)
        if place < len(PRODUCTS):
            work = product_work(*PRODUCTS[place], rng)
        else:
            work = convolution_work(LAYERS[place - len(PRODUCTS)], rng)
        return measure_work(work, FORMS[form], target, plan.rounds)

    return plan.record.fill("matrix_unit", [*LIMITS, *wanted] if wanted else [], one)


# Limits


def measure_limit(name: str, target: Target, rounds: int, iterations: int = 20_000) -> Row:
    """Cycles of what `name` says, and of all products the operations a second."""
    sums = {"products": 4, "a chain of products": 1, "setting up": 0}[name]
    function = load(_limit_text(sums), "limit", target)
    setup = np.zeros(64, np.uint8)
    setup[0], setup[16:32:2], setup[48:56] = 1, 64, 16
    place = aligned((64,), np.uint8)
    place[:] = setup
    call = prepared(Call(function, (place,), iterations))
    count = iterations * (4 if sums else 1)
    row: Row = {"cycles": seconds_of(call, rounds) * clock_rate(target) / count}
    if sums:
        row["gflops"] = 2e-9 * 16 * 16 * 32 * count / seconds_of(call, rounds)
    return row


def clock_rate(target: Target) -> float:
    """Cycles a second: of integer products that wait for each other."""
    steps = "\n".join(f"  %x{k + 1} = mul i64 %x{k}, %begin" for k in range(_CHAIN))
    text = f"""
define void @clock(ptr %buffers, ptr %dims, i64 %begin, i64 %end) nounwind {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %n, %loop ]
  %x0 = phi i64 [ %end, %entry ], [ %x{_CHAIN}, %loop ]
{steps}
  %n = add i64 %i, 1
  %more = icmp slt i64 %n, %end
  br i1 %more, label %loop, label %done
done:
  %p = load ptr, ptr %buffers
  store i64 %x{_CHAIN}, ptr %p
  ret void
}}
"""
    iterations, place = 200_000, aligned((8,))
    call = prepared(Call(load(text, "clock", target), (place,), iterations))
    return iterations * _CHAIN * _MULTIPLY / seconds_of(call, 5)


def _limit_text(sums: int) -> str:
    """Four products in an iteration, on so many sums; with none, setting up and giving up."""
    names = ("ldtilecfg(ptr", "tilerelease(", "tdpbf16ps(i8 immarg, i8 immarg, i8 immarg")
    declared = "".join(f"declare void @llvm.x86.{name})\n" for name in names)
    setup = "  call void @llvm.x86.ldtilecfg(ptr %p)\n"
    release = "  call void @llvm.x86.tilerelease()\n"
    pairs = [(k % sums, 4 + k // 2, 6 + k % 2) for k in range(4)] if sums else []
    steps = "".join(
        f"  call void @llvm.x86.tdpbf16ps(i8 {c}, i8 {a}, i8 {b})\n" for c, a, b in pairs
    )
    return f"""{declared}
define void @limit(ptr %buffers, ptr %dims, i64 %begin, i64 %end) nounwind {{
entry:
  %p = load ptr, ptr %buffers
{setup}  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %n, %loop ]
{steps or setup + release}  %n = add i64 %i, 1
  %more = icmp slt i64 %n, %end
  br i1 %more, label %loop, label %done
done:
{release}  ret void
}}
"""


def seconds_of(call: Callable[[], None], rounds: int) -> float:
    """The median of so many calls, after one that does not count."""
    call()
    found = []
    for _ in range(max(rounds, 3)):
        start = clock()
        call()
        found.append(clock() - start)
    return statistics.median(found)


# Kernels


@dataclass(frozen=True, eq=False)
class TileWork:
    """A contraction on tiles: `split`, where there is something to split, makes the left side."""

    multiply: Call
    split: Call | None
    out: Array
    tiling: MatrixTiling
    numbers: int


def tile_work(work: Work, form: TileForm, target: Target) -> TileWork:
    """The kernels for a work whose numbers are float32; rounded to bf16 where that is the form. The
    left side lies by blocks of channels, which are whole."""
    layout = parts_layout(work.contraction, work.a.shape, 0, form)
    draft = layout.contraction(work.contraction)
    left = aligned([evaluate_named(size, {}) for size in layout.shape], bf16.numpy)
    pixels = work.a.reshape(-1, layout.blocks, layout.block)
    left[:, 0, : len(pixels)] = pixels.swapaxes(0, 1)
    split = None
    if form is SPLIT:
        source, parts = Buffer("whole", f32, (work.a.size,)), Buffer("parts", bf16, layout.shape)
        body, _ = layout.split_body(source, parts, target.lanes(f32))
        kernel = Kernel("split", (source, parts), 1, (), body)
        split = _call(kernel, target, (work.a.reshape(-1), left))
        split()
    a = Buffer("a", bf16, (left.size,))
    draft = replace(draft, a=a)
    tiling = plan_tiles(draft, form, target, layout.part_stride)
    assert tiling is not None
    packed = pack(layout.arrange(work.b), form, tiling.runs, tiling.panel)
    b = Buffer("b", bf16, (packed.size,))
    body = lower_on_tiles(replace(draft, b=b), tiling, target)
    kernel = Kernel("tiles", (a, b, Buffer("bias", f32, work.bias.shape), work.out), 1, (), body)
    out = aligned(work.expected.shape)
    multiply = _call(kernel, target, (left.reshape(-1), packed.reshape(-1), work.bias, out))
    return TileWork(multiply, split, out, tiling, work.a.size)


def _call(kernel: Kernel, target: Target, arrays: tuple[Array, ...]) -> Call:
    placed = []
    for array in arrays:
        if array.ctypes.data % 64:
            copy = aligned(array.shape, array.dtype)
            copy[...] = array
            array = copy
        placed.append(array)
    extent = kernel.parallel_extent
    assert isinstance(extent, int)
    return Call(load_kernel(kernel, target), tuple(placed), extent)


def measure_work(work: Work, form: TileForm, target: Target, rounds: int) -> Row:
    """Both units' times, measured and predicted."""
    tiles = tile_work(work, form, target)
    seconds = seconds_of(prepared(tiles.multiply), rounds)
    wrong = float(np.linalg.norm(tiles.out - work.expected) / np.linalg.norm(work.expected))
    tiling, rate = tiles.tiling, clock_rate(target)
    blocks = dims.product(axis.extent for axis in (*tiling.walk.batch, *tiling.walk.outer))
    panels = tiling.panels(work.contraction)
    steps = tiling.runs.count * tiling.runs.steps * len(form.products)
    products = dims.product((blocks, tiling.blocks, panels, steps, tiling.tall))
    assert isinstance(products, int)
    products *= tiling.panel // COLUMNS
    row: Row = {
        "ms": seconds * 1e3,
        "gflops": work.operations / seconds / 1e9,
        "error": wrong,
        "cycles a product": seconds * rate / products,
        "predicted_ms": tile_cycles(tiling, work.contraction, 0) / rate * 1e3,
    }
    if tiles.split is not None:
        spent = seconds_of(prepared(tiles.split), rounds)
        row["split_ms"] = spent * 1e3
        row["cycles a number"] = spent * rate / tiles.numbers
        row["predicted_split_ms"] = SPLIT_NUMBER * tiles.numbers / rate * 1e3
        ready = compile_work(work, target)
        row["vector_ms"] = seconds_of(prepared(ready.call), rounds) * 1e3
        row["vector_error"] = error(work, ready)
        row["predicted_vector_ms"] = vector_cycles(tiling, work.contraction) / rate * 1e3
    return row


def show_matrix_unit(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells; what the model says stands in brackets."""
    expected = {"products": f" ({PRODUCT} with loads)", "a chain of products": f" ({LATENCY})"}
    cells = []
    for name, row in rows.items():
        cycles = row.get("cycles", row.get("cycles a product"))
        cells.append(
            [
                name,
                _number(row, "gflops", ".0f"),
                ("–" if cycles is None else f"{cycles:.1f}") + expected.get(name, ""),
                _with_prediction(row, "ms", "predicted_ms"),
                _with_prediction(row, "split_ms", "predicted_split_ms"),
                _with_prediction(row, "vector_ms", "predicted_vector_ms"),
                _gain(row),
                _number(row, "error", ".1e") if "failed" not in row else row["failed"],
            ]
        )
    columns = ["matrix unit", "GFLOP/s", "cycles a product", "ms", "split", "vector unit"]
    return [*columns, "gain, split included", "error"], cells


def gain(row: Row) -> float | None:
    """How many times as fast as the vector unit, splitting included."""
    if "vector_ms" not in row:
        return None
    return float(row["vector_ms"] / (row["ms"] + row["split_ms"]))


def _gain(row: Row) -> str:
    value = gain(row)
    return "–" if value is None else f"{value:.2f}"


def _number(row: Row, key: str, form: str) -> str:
    return f"{row[key]:{form}}" if key in row else "–"


def _with_prediction(row: Row, measured: str, predicted: str) -> str:
    return f"{row[measured]:.3f} ({row[predicted]:.3f})" if measured in row else "–"
