"""Graphs of one operator, or a few, against other systems: whatever whole models do not show.

    python -m benchmarks operators --only 'TopK*'

Sizes are those of detection heads, transformers, audio, point clouds, recommendation and of
pictures before and after a network. All systems run in this process, interleaved; results are
compared with onnxruntime's.
"""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import bessemer
from benchmarks.interleaved import interleaved_medians
from benchmarks.plan import PAUSE_WITHOUT_TORCH, Plan, is_installed, not_installed
from benchmarks.record import Row
from bessemer.compiler.ir.types import Array
from bessemer.frontends.cli.bench_worker import BESSEMER
from bessemer.frontends.cli.rivals import RIVALS, VARIANTS, start_system
from bessemer.frontends.relative_error import relative_error

_OTHERS = ("onnxruntime", "onnxruntime_flushed", "openvino")

EXACT = 1e-4
OPERATOR_SET = 21


@dataclass(frozen=True)
class Case:
    """Nodes in ONNX's text form, and what they read. An input is a shape, behind what its elements
    are, if not normal floats: "+8x64" are positive, "<9:8x64" integers below 9, "?8x64" booleans,
    "b8x64" bytes, "box:100" corners of boxes. Constants are arrays, or numbers."""

    nodes: str
    inputs: Mapping[str, str]
    constants: Mapping[str, Any]


CASES: dict[str, Case] = {}


def _case(name: str, nodes: str, constants: Mapping[str, Any] | None = None, **inputs: str) -> None:
    assert name not in CASES
    CASES[name] = Case(nodes, inputs, constants or {})


def _detection() -> None:
    for size, count in ((100, 5), (8400, 300), (25200, 1000), (32000, 50)):
        _case(f"TopK {count} of {size}", "y, i = TopK(x, k)", {"k": [count]}, x=f"1x{size}")
    for shape, count in (("4096x16", 2), ("1024x1024", 20), ("2048x128", 1), ("128x1000", 5)):
        _case(f"TopK {count}, rows {shape}", "y, i = TopK(x, k)", {"k": [count]}, x=shape)
    _case("TopK 4 of channels", "y, i = TopK<axis=1>(x, k)", {"k": [4]}, x="1x64x80x80")
    _case("ArgMax of channels", "y = ArgMax<axis=1>(x)", x="1x21x256x256")
    for count, classes, least in ((300, 1, 0.5), (8400, 1, 0.5), (1000, 20, 0.5), (8400, 80, 0.9)):
        limits = {"m": np.array([100]), "o": [0.45], "t": [least]}
        nodes = "y = NonMaxSuppression(x, s, m, o, t)"
        name = f"NonMaxSuppression {count}, {classes} classes"
        _case(name, nodes, limits, x=f"box:{count}", s=f"+1x{classes}x{count}")
    _case("NonZero sparse", "g = Greater(x, t)\ny = NonZero(g)", {"t": 0.95}, x="+1x80x8400")
    _case("Compress", "y = Compress<axis=0>(x, c)", x="8400x84", c="?8400")
    _case("GatherND", "y = GatherND(x, i)", x="8400x4", i="<8400:300x1")
    sizes = "output_height=7, output_width=7, sampling_ratio=2, spatial_scale=0.25"
    nodes = f"y = RoiAlign<{sizes}>(x, r, b)"
    _case("RoiAlign", nodes, {"b": np.zeros(100, np.int64)}, x="1x256x50x50", r="box:100:0")


def _pictures() -> None:
    for window in (
        "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]", "kernel_shape=[2,2], strides=[2,2]",
        "kernel_shape=[5,5], pads=[2,2,2,2]", "kernel_shape=[13,13], pads=[6,6,6,6]",
    ):  # fmt: skip
        _case(f"MaxPool {window}", f"y = MaxPool<{window}>(x)", x="1x64x56x56")
    nodes = "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)"
    _case("AveragePool 3x3", nodes, x="1x192x35x35")
    for mode in ("nearest", "linear", "cubic"):
        nodes = f'y = Resize<mode="{mode}">(x, , , s)'
        _case(f"Resize {mode} down", nodes, {"s": [1, 3, 224, 224]}, x="1x3x480x640")
        _case(f"Resize {mode} up", nodes, {"s": [1, 64, 80, 80]}, x="1x64x40x40")
    nodes = 'y = Resize<mode="linear", antialias=1>(x, , , s)'
    _case("Resize antialiased", nodes, {"s": [1, 3, 224, 224]}, x="1x3x480x640")
    for mode in ("nearest", "linear", "cubic"):
        nodes = f'y = GridSample<mode="{mode}">(x, g)'
        _case(f"GridSample {mode}", nodes, x="1x32x64x64", g="1x64x64x2")
    _case("GridSample of heads", "y = GridSample(x, g)", x="8x32x20x20", g="8x300x4x2")
    for mode in ("constant", "reflect", "edge"):
        pads = {"p": [0, 0, 3, 3, 0, 0, 3, 3]}
        _case(f"Pad {mode}", f'y = Pad<mode="{mode}">(x, p)', pads, x="1x32x128x128")
    nodes = "t = Transpose<perm=[0,3,1,2]>(x)\nc = Cast<to=1>(t)\ny = Div(c, k)"
    _case("bytes to channels first", nodes, {"k": 255.0}, x="b1x480x640x3")
    _case("DepthToSpace", "y = DepthToSpace<blocksize=2>(x)", x="1x64x64x64")
    _case("LRN", "y = LRN<size=5>(x)", x="1x96x55x55")
    ones = {"s": np.ones(64, np.float32), "b": np.zeros(64, np.float32)}
    nodes = "y = InstanceNormalization(x, s, b)"
    _case("InstanceNormalization", nodes, ones, x="1x64x128x128")


def _sequences() -> None:
    for shape, axis in (("1x12x128x128", 3), ("1x80x80x3", 2), ("1x4x16x8400", 2), ("64x12", 1)):
        _case(f"Softmax {shape}, axis {axis}", f"y = Softmax<axis={axis}>(x)", x=shape)
    for shape, axis in (("64x1024", 1), ("512x512", 0)):
        _case(f"CumSum {shape}, axis {axis}", "y = CumSum(x, a)", {"a": axis}, x=shape)
    for axes in ([2, 3], [1], [3]):
        _case(f"ReduceMean axes {axes}", "y = ReduceMean(x, a)", {"a": axes}, x="1x64x56x56")
    _case("Where", "y = Where(c, x, n)", {"n": -1e9}, x="1x12x128x128", c="?1x1x128x128")
    table = np.ones((30522, 384), np.float32)
    _case("Gather of embeddings", "y = Gather(w, x)", {"w": table}, x="<30522:8x128")
    _case("Concat to a cache", "y = Concat<axis=2>(x, n)", x="1x12x127x64", n="1x12x1x64")
    for order in itertools.islice(itertools.permutations(range(4)), 1, None, 3):
        name = f"Transpose {''.join(map(str, order))}"
        _case(name, f"y = Transpose<perm={list(order)}>(x)", x="8x24x40x48")
    lengths = {"h": 160, "w": np.hanning(400).astype(np.float32), "l": 400}
    _case("STFT", "y = STFT<onesided=1>(x, h, w, l)", lengths, x="1x16000x1")
    for left, right in (("128x768", "768x768"), ("10000x64", "64x3"), ("1024x3", "3x1024")):
        _case(f"MatMul {left} by {right}", "y = MatMul(x, w)", x=left, w=right)
    _case("Einsum", 'y = Einsum<equation="bhwc,hkc->bhwk">(x, w)', x="2x14x14x64", w="14x14x64")


def _tables() -> None:
    for function in ("Exp", "Erf", "Tanh", "Gelu", "Mish", "Softplus", "Sin", "Log"):
        _case(function, f"y = {function}(x)", x="+64x4096")
    for given, to in (("", 10), ("", 7), ("<99:", 1), ("b", 1), ("?", 1)):
        _case(f"Cast {given or 'float'} to {to}", f"y = Cast<to={to}>(x)", x=f"{given}64x4096")
    _case("Mod", "y = Mod(x, z)", {"z": 97}, x="<100000:64x4096")
    _case("Div of integers", "y = Div(x, z)", {"z": 80}, x="<100000:64x4096")
    _case("OneHot", "y = OneHot(x, d, v)", {"d": 1000, "v": [0.0, 1.0]}, x="<1000:64x50")
    _case("Unique", "y, i, v, c = Unique(x)", x="<8000:20000")
    _case("ScatterND added up", 'y = ScatterND<reduction="add">(x, i, v)',
          x="5000x16", i="<5000:20000x1", v="20000x16")  # fmt: skip
    quantization = {"s": 0.02, "z": np.uint8(128)}
    _case("QuantizeLinear", "y = QuantizeLinear(x, s, z)", quantization, x="1x64x56x56")
    _case("DequantizeLinear", "y = DequantizeLinear(x, s, z)", quantization, x="b1x64x56x56")


for _family in (_detection, _pictures, _sequences, _tables):
    _family()


def measure_operators(plan: Plan) -> dict[str, Row]:
    """A row for every case and number of threads."""
    names = [f"{name}/{n}" for name in plan.chosen("operators", CASES) for n in plan.threads]

    def one(name: str) -> Row:
        case, threads = name.rsplit("/", 1)
        with tempfile.TemporaryDirectory(prefix="bessemer-operators-") as folder:
            return _measure(CASES[case], int(threads), plan, Path(folder) / "model.onnx")

    return plan.record.fill("operators", names, one, not_installed(*RIVALS))


def _measure(case: Case, threads: int, plan: Plan, path: Path) -> Row:
    rng = np.random.default_rng(0)
    inputs = {name: _array(text, rng) for name, text in case.inputs.items()}
    model = _model(case, inputs)
    onnx.save(model, path)
    ours = bessemer.compile(model, threads=threads, cache=False)
    runs: dict[str, Callable[[], list[Array]]] = {BESSEMER: lambda: ours.run(inputs)}
    others = {system: system for system in RIVALS} | {s: p for s, (p, _) in VARIANTS.items()}
    for system, package in others.items():
        if is_installed(package) and not system.endswith("bf16"):
            try:
                run = start_system(system, path, threads, inputs)
                run()
            except Exception:  # whatever another system thinks of this operator
                continue
            runs[system] = run
    times = interleaved_medians(runs, plan.rounds, plan.seconds / 20, PAUSE_WITHOUT_TORCH)
    row: Row = {name: seconds * 1e6 for name, seconds in times.items()}
    if "onnxruntime" in runs:
        pairs = zip(runs["onnxruntime"](), runs[BESSEMER](), strict=True)
        error = max(relative_error(theirs, mine) for theirs, mine in pairs)
        row["error"] = error if math.isfinite(error) else None
    return row


def _array(text: str, rng: np.random.Generator) -> Array:
    if text.startswith("box:"):
        count, *rank = text.split(":")[1:]
        middle, size = rng.uniform(0, 200, (int(count), 2)), rng.uniform(8, 60, (int(count), 2))
        corners = np.concatenate([middle - size / 2, middle + size / 2], 1).astype(np.float32)
        return corners if rank else corners[None]
    kind, limit = "", 0
    if ":" in text:
        limit, text = int(text[1 : text.index(":")]), text[text.index(":") + 1 :]
    elif not text[0].isdigit():
        kind, text = text[0], text[1:]
    shape = tuple(map(int, text.split("x")))
    if limit:
        return rng.integers(0, limit, shape, np.int64)
    match kind:
        case "+":
            return rng.uniform(0.05, 1, shape).astype(np.float32)
        case "?":
            return rng.uniform(0, 1, shape) < 0.1
        case "b":
            return rng.integers(0, 256, shape).astype(np.uint8)
        case _:
            return rng.standard_normal(shape).astype(np.float32)


def _model(case: Case, inputs: Mapping[str, Array]) -> onnx.ModelProto:
    nodes = [onnx.parser.parse_node(line) for line in case.nodes.splitlines()]
    read = {name for node in nodes for name in node.input}
    made = [name for node in nodes for name in node.output if name not in read]
    constants = []
    for name, given in case.constants.items():
        array = np.asarray(given)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        constants.append(numpy_helper.from_array(array, name))
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in inputs.items()}
    graph = helper.make_graph(
        nodes,
        "operators",
        [helper.make_tensor_value_info(name, types[name], inputs[name].shape) for name in inputs],
        [onnx.ValueInfoProto(name=name) for name in made],
        constants,
    )
    imports = [helper.make_opsetid("", OPERATOR_SET)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def ratio_of(row: Mapping[str, Any]) -> float | None:
    """Our time by the best other system's; None without one."""
    others = [row[system] for system in _OTHERS if system in row]
    return row[BESSEMER] / min(others) if others and BESSEMER in row else None


def show_operators(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells, the slowest by the others first; at last a geometric mean."""
    systems = (BESSEMER, *_OTHERS)
    ratios = {name: ratio for name, row in rows.items() if (ratio := ratio_of(row)) is not None}
    cells = []
    for name in sorted(rows, key=lambda name: -ratios.get(name, 0.0)):
        row = rows[name]
        times = [f"{row[system]:.1f}" if system in row else "–" for system in systems]
        error = row.get("error", math.inf)
        right = "" if error is not None and error <= EXACT else "differs"
        shown = f"{ratios[name]:.2f}" if name in ratios else row.get("failed", "–")[:60]
        cells.append([name, *times, shown, right if "error" in row else "–"])
    for threads in sorted({name.rsplit("/", 1)[1] for name in ratios}):
        chosen = [math.log(r) for name, r in ratios.items() if name.endswith(f"/{threads}")]
        mean = f"{math.exp(statistics.fmean(chosen)):.2f}"
        cells.append(
            [f"geometric mean of {len(chosen)}/{threads}", *["–"] * len(systems), mean, ""]
        )
    return ["graph/threads", *(f"{system} us" for system in systems), "ratio", "results"], cells
