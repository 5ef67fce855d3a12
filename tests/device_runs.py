"""Runs graphs and kernels for GPUs on the emulator, under several schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bessemer.compiler.device_driver import DeviceCompilation, build_for_device
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array, TensorType, dtype_of
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import SM80, DeviceTarget
from bessemer.runtime.cuda.model import DeviceModel
from emulator.driver import EmulatedDriver
from emulator.schedule import FOUR_SCHEDULES, Schedule

Build = Callable[..., Value | tuple[Value, ...]]


def graph_of(build: Build, arrays: Sequence[Array], symbolic: Sequence[int] = ()) -> Graph:
    """What `build` writes for inputs like the arrays; sizes in `symbolic` become symbols."""
    b = GraphBuilder("test")
    inputs = []
    for number, array in enumerate(arrays):
        shape: list[Size] = [symbol(f"n{s}") if s in symbolic else s for s in array.shape]
        inputs.append(b.input(f"x{number}", TensorType(dtype_of(array), tuple(shape))))
    outputs = build(b, *inputs)
    listed = outputs if isinstance(outputs, tuple) else (outputs,)
    return b.finish(listed, [f"y{k}" for k in range(len(listed))])


def run_device_graph(
    graph: Graph, arrays: Sequence[Array], target: DeviceTarget = SM80, **options: Any
) -> list[Array]:
    """The outputs on the emulator: the same bits under every schedule, and when run again."""
    made = build_for_device(graph, Options(**options), target)
    return run_compiled(made, arrays)


def run_compiled(
    made: DeviceCompilation,
    arrays: Sequence[Array],
    again: bool = True,
    schedules: Sequence[Schedule] = FOUR_SCHEDULES,
) -> list[Array]:
    """The same of what has been compiled; `again` runs the last model twice."""
    found: list[list[Array]] = []
    for schedule in schedules:
        model = DeviceModel(made.artifact, made.weights, EmulatedDriver(schedule))
        found.append(model.run(list(arrays)))
    if again:
        found.append(model.run(list(arrays)))
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert one.tobytes() == same.tobytes()
    return found[0]


def run_device(
    build: Build, *arrays: Array, symbolic: Sequence[int] = (), target: DeviceTarget = SM80
) -> list[Array]:
    """The outputs of what `build` writes, on the emulator."""
    return run_device_graph(graph_of(build, arrays, symbolic), arrays, target)


def assert_close(actual: Array, expected: Array, tolerance: float = 2e-6) -> None:
    """Within the tolerance of the largest value; 16-bit types within theirs."""
    assert actual.shape == expected.shape
    widest = {"float16": 1e-3, "bfloat16": 8e-3}.get(str(actual.dtype), tolerance)
    size = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    wide = actual.astype(np.float64)
    np.testing.assert_allclose(wide, expected.astype(np.float64), rtol=0, atol=widest * size)
