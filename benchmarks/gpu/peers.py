"""The same cases by torch on the same device: cuBLAS, cuDNN and torch.compile, timed by events and
by replayed graphs. torch is not imported before it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.cases import Case
from bessemer.compiler.ir.types import Array

ROUNDS = 11
_SECONDS = 2e-3

Row = dict[str, Any]


def torch_with_cuda() -> Any | None:
    """The module, None where it is not installed or finds no device."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch: Any = importlib.import_module("torch")
    return torch if torch.cuda.is_available() else None


def measure_peer(torch: Any, case: Case, device: str = "cuda") -> Row:
    """Times of torch's own function, and of what torch.compile makes of it, in milliseconds."""
    if case.peer is None:
        return {}
    is_tf32 = case.arithmetic == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_tf32
    torch.backends.cudnn.benchmark = True
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    tensors = [as_tensor(torch, array, device) for array in case.arrays()]
    function = case.peer(torch)
    row: Row = {}
    with torch.inference_mode():
        makers: dict[str, Callable[[], Any]] = {"torch": lambda: function}
        if case.is_compiled:
            makers["compiled"] = lambda: torch.compile(function)
        for name, make in makers.items():
            try:
                row |= _times(torch, make(), tensors, name)
            except Exception as error:
                row[f"{name}_failed"] = f"{type(error).__name__}: {str(error)[:200]}"
    return row


def as_tensor(torch: Any, array: Array, device: str) -> Any:
    """A copy on the device; bfloat16 goes by its bits."""
    if array.dtype.itemsize == 2 and array.dtype.kind not in "iuf":
        return torch.from_numpy(array.view(np.int16)).to(device).view(torch.bfloat16)
    return torch.from_numpy(np.array(array)).to(device)


def _times(
    torch: Any, function: Callable[..., Any], tensors: Sequence[Any], name: str
) -> dict[str, float]:
    def run() -> None:
        function(*tensors)

    for _ in range(3):
        run()
    alone = _median(torch, run)
    row = {f"{name}_event_ms": alone * 1e3, f"{name}_ms": alone * 1e3}
    times = max(1, min(200, round(_SECONDS / max(alone, 1e-6))))
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(times):
                run()
    except RuntimeError:  # what cannot be recorded has its time by events
        return row
    row[f"{name}_ms"] = _median(torch, graph.replay) / times * 1e3
    return row


def _median(torch: Any, work: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    found: list[float] = []
    for _ in range(ROUNDS + 1):
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(found[1:])
