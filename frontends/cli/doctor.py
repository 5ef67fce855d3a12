"""`bessemer doctor`: this machine's software, processor, linkers and cache, and a self test."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import typer

import bessemer
import bessemer.compiler.ops
from bessemer.compiler.codegen.ptx.assemble import assembler_version, find_assembler
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.options import cache_folder
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.choose import TARGETS, host_target
from bessemer.compiler.targets.nvptx import DEVICES, device_of_capability
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.cache import contents
from bessemer.frontends.cli.exit_codes import FAILED_RUN
from bessemer.frontends.cli.output import count_of, format_bytes, print_json, print_table, spinner
from bessemer.frontends.compile import compile as compile_model
from bessemer.frontends.profiling.peak import measure_peak, prepare_peak
from bessemer.runtime.cuda.device import compute_capability
from bessemer.runtime.cuda.driver import DeviceError
from bessemer.runtime.cuda.libcuda import CudaDriver

_PACKAGES = ("numpy", "llvmlite", "onnx", "onnxruntime", "openvino", "ziglang")


def command(as_json: arguments.AsJson = False) -> None:
    """Describe this installation and machine, and compile and run a small network."""
    with spinner("Examining"):
        found = {name: _safely(part) for name, part in PARTS.items()}
    if as_json:
        print_json(found)
    else:
        rows = [[name, _shown(entry)] for name, entry in found.items()]
        print_table(("", f"bessemer {bessemer.__version__}"), rows)
    if not found["self test"].get("ok"):
        raise typer.Exit(FAILED_RUN)


def _safely(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a part finds; one that fails says so and the others go on."""
    try:
        return part()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _shown(entry: dict[str, Any]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in entry.items())


def _software() -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["LLVM"] = ".".join(map(str, llvm.llvm_version_info))
    return found


def _processor() -> dict[str, Any]:
    target = host_target()
    refused = {"matrix unit": "there is one, but the system does not let this process use it"}
    return {
        "name": _cpu_name(),
        "LLVM's name": str(llvm.get_host_cpu_name()),
        "target": target.name,
        "vectors": f"{target.vector_bits} bits, {target.vector_registers} registers",
        "features": " ".join(target.features),
        "targets": ", ".join(TARGETS),
        **(refused if x86.refuses_tiles() else {}),
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


def _threads() -> dict[str, Any]:
    return {
        "processors": os.cpu_count(),
        "of this process": len(os.sched_getaffinity(0)),
        "control group": _quota(),
    }


def _quota() -> str:
    """The processors that the control group allows, as its file says it."""
    for path in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        quota, _, period = text.partition(" ")
        if quota in ("max", "-1"):
            return "no limit"
        return f"{int(quota) / int(period or 100_000):g} processors"
    return "none found"


def _peak() -> dict[str, Any]:
    peak = prepare_peak(host_target())
    measure_peak(peak)
    rates = {count: measure_peak(peak, count) for count in {1, len(os.sched_getaffinity(0))}}
    return {count_of(count, "thread"): f"{rate / 1e9:.0f} GFLOP/s" for count, rate in rates.items()}


def _linker() -> dict[str, Any]:
    found = {name: shutil.which(name) for name in ("cc", "gcc", "clang", "aarch64-linux-gnu-gcc")}
    listed: dict[str, Any] = {name: path for name, path in found.items() if path}
    if importlib.util.find_spec("ziglang") is not None:
        listed["zig"] = "the ziglang package"
    return listed or {"none": "a .so needs cc or 'pip install ziglang'; .o and .a need nothing"}


def _devices() -> dict[str, Any]:
    """NVIDIA's driver, what it finds, and the assembler; none of them is needed for processors."""
    program = find_assembler()
    found: dict[str, Any] = {"targets": ", ".join(DEVICES)}
    found["ptxas"] = f"{assembler_version(program)} ({program})" if program else "not found"
    try:
        driver = CudaDriver()
        found["driver"] = "CUDA {}.{}".format(*driver.version())
        found["devices"] = driver.device_count()
    except DeviceError as error:
        found["driver"] = str(error)
        return found
    for device in range(found["devices"]):
        found[f"device {device}"] = _device(driver, device)
    return found


def _device(driver: CudaDriver, device: int) -> str:
    major, minor = compute_capability(driver, device)
    text = f"{driver.device_name(device)}, compute capability {major}.{minor}"
    try:
        return f"{text}, target {device_of_capability(major, minor).name}"
    except CompileError as error:
        return f"{text}: {error}"


def _cache() -> dict[str, Any]:
    folder = cache_folder()
    entries, size = contents(folder)
    found = {"folder": folder or "off", "entries": entries, "size": format_bytes(size)}
    if folder is not None and (reason := _why_unwritable(folder)):
        found["kept"] = f"nothing: {reason}"
    return found


def _why_unwritable(folder: Path) -> str:
    """The system's reason why no entry can be made in a folder; empty where one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _self_test() -> dict[str, Any]:
    """relu(x w + b) for any number of rows, against NumPy."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((17, 9)).astype(np.float32)
    bias = rng.standard_normal(9).astype(np.float32)
    builder = GraphBuilder("doctor")
    n = symbol("n")
    x = builder.input("x", TensorType(f32, (n, 17)))
    product = builder.apply("matmul", x, builder.constant(w))
    shift = builder.apply("broadcast_to", builder.constant(bias), shape=(n, 9))
    out = builder.apply("relu", builder.apply("add", product, shift))
    start = time.perf_counter()
    model = compile_model(builder.finish([out], ["y"]), cache=False)
    seconds = time.perf_counter() - start
    worst = 0.0
    for rows in (1, 5, 64):
        array = rng.standard_normal((rows, 17)).astype(np.float32)
        expected = np.maximum(array.astype(np.float64) @ w + bias, 0)
        (found,) = model.run([array])
        worst = max(worst, float(np.linalg.norm(found - expected) / np.linalg.norm(expected)))
    return {
        "ok": worst < 1e-6,
        "relative error": f"{worst:.1e}",
        "threads": model.threads,
        "compiled in": f"{seconds:.2f} s",
    }


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "software": _software,
    "processor": _processor,
    "threads": _threads,
    "peak": _peak,
    "linker": _linker,
    "gpu": _devices,
    "cache": _cache,
    "self test": _self_test,
}
