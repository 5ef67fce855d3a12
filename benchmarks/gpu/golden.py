"""Keeps what a device has computed for the interpreter: the program, its inputs, and the outputs.

    NAME.bessemer   the program, with its PTX and weights
    NAME.npz        in0, in1, ..., out0, out1, ...: bytes, and their shapes

`replay` runs the same PTX on the interpreter. A difference means that the author of the
interpreter, or of the PTX, has misread the manual.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.compiler.ir.types import Array
from bessemer.frontends.relative_error import relative_error
from bessemer.runtime.arrays import numpy_dtype
from bessemer.runtime.cuda.driver import Driver
from bessemer.runtime.cuda.model import DeviceModel
from bessemer.runtime.cuda.program_file import SUFFIX, Form, read_forms, write_forms

TOLERANCES = {"bfloat16": 1e-2, "float16": 2e-3, "float64": 1e-12}
"""The device's exponentials and reciprocals are approximate, the interpreter's are not."""
_TOLERANCE = 1e-5


def keep_golden(place: Path, form: Form, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Writes the two files; `place` is their name without a suffix."""
    place.parent.mkdir(parents=True, exist_ok=True)
    write_forms([form], place.with_name(place.name + SUFFIX))
    arrays = {f"in{k}": array for k, array in enumerate(inputs)}
    arrays |= {f"out{k}": array for k, array in enumerate(outputs)}
    kept: dict[str, Any] = {}
    for name, array in arrays.items():
        kept[name] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        kept[f"{name}_shape"] = np.array(array.shape, np.int64)
    np.savez_compressed(place.with_name(place.name + ".npz"), **kept)


def goldens(folder: Path) -> list[Path]:
    """What is there to replay."""
    return sorted(folder.rglob(f"*{SUFFIX}"))


def replay_golden(path: Path, driver: Driver) -> dict[str, Any]:
    """The same program on another driver: its relative error, and how many bytes differ."""
    (form,) = read_forms(path)
    signature = form.program.signature
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
        inputs = [_array(file, f"in{k}", i.dtype) for k, i in enumerate(signature.inputs)]
        wanted = [_array(file, f"out{k}", i.dtype) for k, i in enumerate(signature.outputs)]
    model = DeviceModel(form.program, form.weights, driver)
    found = model.run(inputs)
    errors, right, differing, total = [], True, 0, 0
    for info, one, other in zip(signature.outputs, wanted, found, strict=True):
        errors.append(relative_error(one.astype(np.float64), other.astype(np.float64)))
        right &= errors[-1] <= TOLERANCES.get(info.dtype, _TOLERANCE)
        differing += int(np.count_nonzero(one.view(_bits(one)) != other.view(_bits(other))))
        total += one.size
    return {"error": max(errors), "right": right, "differing": differing, "elements": total}


def _bits(array: Array) -> str:
    return f"u{array.dtype.itemsize}"


def _array(file: Any, name: str, dtype: str) -> Array:
    shape = tuple(int(size) for size in file[f"{name}_shape"])
    return np.frombuffer(file[name].tobytes(), numpy_dtype(dtype)).reshape(shape)
