"""Runs a device artifact on a libcuda that emulates, in a process of its own:

    python -m tests.device.run_device_library LIBRARY FOLDER SETTINGS

loads LIBRARY through its C interface, runs it on FOLDER/inputs.npz as often as SETTINGS (JSON) say,
and writes FOLDER/outputs.npz and FOLDER/told.json. With "python" in SETTINGS it does so through
`bessemer.load`.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import bessemer
from bessemer.runtime.artifact import Signature
from bessemer.runtime.cuda.program_file import read_forms
from bessemer.runtime.errors import RunError
from tests.device.fake_libcuda import FakeDriver, build_fake


class Options(ctypes.Structure):
    """PREFIX_options of a device library."""

    _fields_ = (
        ("device", ctypes.c_int32),
        ("log", ctypes.c_void_p),
        ("log_user", ctypes.c_void_p),
    )


def run_library(path: Path, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What came of it; outputs are in FOLDER/outputs.npz."""
    signature = read_forms(path)[0].program.signature
    library = ctypes.CDLL(str(path.resolve()))
    prefix = signature.prefix

    def function(name: str, kind: Any = ctypes.c_int32) -> Any:
        found = library[f"{prefix}_{name}"]
        found.restype = kind
        return found

    lines: list[str] = []
    logging = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p)(
        lambda _, status, text: lines.append(f"{status}: {text.decode()}")
    )
    options = Options(settings.get("device", 0), ctypes.cast(logging, ctypes.c_void_p), None)
    context = ctypes.c_void_p()
    told: dict[str, Any] = {"log": lines, "abi": function("abi")(), "statuses": []}
    told["metadata"] = function("metadata", ctypes.c_char_p)().decode()
    told["created"] = function("create")(ctypes.byref(context), ctypes.byref(options))
    if told["created"]:
        return told
    with np.load(folder / "inputs.npz") as file:
        arrays = dict(file)
    outputs: dict[str, Any] = {}
    for number in range(settings.get("runs", 1)):
        found = _run(signature, function, context, arrays, number % settings.get("sets", 1), told)
        outputs |= {f"{number}_{name}": array for name, array in found.items()}
    function("destroy", None)(context)
    np.savez(folder / "outputs.npz", **outputs)
    return told


def _run(
    signature: Signature, function: Any, context: Any, arrays: Any, which: int, told: Any
) -> dict[str, Any]:
    inputs = [np.ascontiguousarray(arrays[f"{which}_{info.name}"]) for info in signature.inputs]
    symbols: dict[str, int] = {}
    for info, array in zip(signature.inputs, inputs):
        symbols |= {s: n for s, n in zip(info.shape, array.shape) if isinstance(s, str)}
    dims = (ctypes.c_int64 * (len(signature.symbols) + 1))(
        *(symbols[name] for name in signature.symbols[: signature.input_symbols])
    )
    found = {}
    for info in signature.outputs:
        shape = [symbols[s] if isinstance(s, str) else s for s in info.shape]
        found[info.name] = np.zeros(shape, info.dtype)
    given = [
        (ctypes.c_void_p * (len(listed) + 1))(*(array.ctypes.data for array in listed))
        for listed in (inputs, list(found.values()))
    ]
    told["workspace"] = function("workspace_bytes", ctypes.c_int64)(dims)
    told["statuses"].append(function("run")(context, *given, dims))
    told["message"] = function("message", ctypes.c_char_p)(context).decode()
    return found


def run_python(path: Path, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The same through `bessemer.load` and the driver that it takes by itself."""
    told: dict[str, Any] = {"errors": []}
    outputs: dict[str, Any] = {}
    with np.load(folder / "inputs.npz") as file:
        arrays = dict(file)
    try:
        model = bessemer.load(path, device=settings.get("device", 0))
        for number in range(settings.get("runs", 1)):
            which = number % settings.get("sets", 1)
            given = {info.name: arrays[f"{which}_{info.name}"] for info in model.inputs}
            try:
                found = model.run(given)
            except RunError as error:
                told["errors"].append([type(error).__name__, str(error)])
            else:
                outputs |= {f"{number}_{i.name}": a for i, a in zip(model.outputs, found)}
        model.close()
    except RunError as error:
        told["errors"].append([type(error).__name__, str(error)])
    np.savez(folder / "outputs.npz", **outputs)
    return told


def main(library: Path, folder: Path, settings: dict[str, Any]) -> None:
    """See the module."""
    fake = None
    if not settings.get("is_missing"):
        fake = FakeDriver(build_fake(folder, tuple(settings.get("without", ()))), settings)
    told = (run_python if settings.get("python") else run_library)(library, folder, settings)
    if fake is not None:
        told |= {
            "calls": fake.log,
            "contexts": fake.contexts,
            "left": fake.emulated.device_memory.used(),
        }
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
