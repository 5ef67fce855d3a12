"""The machine and the software that figures belong to."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import llvmlite.binding as llvm

from benchmarks.round_trip import round_trip
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.profiling.bandwidth import cache_sizes

_PACKAGES = (
    "numpy",
    "llvmlite",
    "onnx",
    "onnxruntime",
    "openvino",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "iree-base-compiler",
)


def describe_machine() -> dict[str, str]:
    """What a reader has to know to compare figures."""
    found = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "processor": processor_name(),
        "processors": str(len(os.sched_getaffinity(0))),
        "caches": ", ".join(f"L{number} {size >> 10} KiB" for number, size in cache_sizes()),
        "target": f"{host_target().name} ({host_target().cpu})",
        "flag's round trip": _round_trip(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "LLVM": ".".join(map(str, llvm.llvm_version_info)),
        "commit": _commit(),
    }
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _round_trip() -> str:
    trip = round_trip()
    return "one processor" if trip is None else f"{trip * 1e9:.0f} ns between two cores"


def processor_name() -> str:
    """As the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
