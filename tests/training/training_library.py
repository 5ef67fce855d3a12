"""A training library as the tests call it: its C functions through ctypes."""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.runtime.native import Options

Array = np.ndarray[Any, Any]


class TrainingLibrary:
    """One context of a library; `call` gives the status of a function."""

    def __init__(self, path: Path, threads: int = 1, weights: str = "", **more: Any) -> None:
        self.library = ctypes.CDLL(str(path))
        self.prefix = path.stem
        for name in ("message", "status_text", "result_name", "parameter"):
            kind = ctypes.c_void_p if name == "parameter" else ctypes.c_char_p
            self.function(name).restype = kind
        self.function("steps").restype = ctypes.c_int64
        self.function("arena_bytes").restype = ctypes.c_int64
        self.handle = ctypes.c_void_p()
        options = Options(threads=threads, weights_path=weights.encode() or None, **more)
        made = (ctypes.byref(self.handle), ctypes.byref(options))
        self.created: int = self.function("create")(*made)

    def function(self, name: str) -> Any:
        return getattr(self.library, f"{self.prefix}_{name}")

    def call(self, name: str, *arguments: Any) -> int:
        status: int = self.function(name)(self.handle, *arguments)
        return status

    def init(self, *dims: int) -> int:
        return self.call("init", _dims(dims))

    def step(self, batch: Sequence[Array], rate: float) -> tuple[int, list[float]]:
        return self._numbers("train_step", batch, ctypes.c_double(rate))

    def evaluate(self, batch: Sequence[Array]) -> tuple[int, list[float]]:
        return self._numbers("evaluate", batch)

    def _numbers(self, name: str, batch: Sequence[Array], *more: Any) -> tuple[int, list[float]]:
        results = (ctypes.c_double * self.function("result_count")())()
        status = self.call(name, _pointers(batch), _dims([len(batch[0])]), *more, results)
        return status, list(results)

    def predict(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> int:
        dims = _dims([len(inputs[0])])
        return self.call("predict", _pointers(inputs), _pointers(outputs), dims)

    def save(self, path: Path) -> int:
        return self.call("save", str(path).encode())

    def load(self, path: Path) -> int:
        return self.call("load", str(path).encode())

    @property
    def message(self) -> str:
        return self.function("message")(self.handle).decode()  # type: ignore[no-any-return]

    @property
    def steps(self) -> int:
        return self.function("steps")(self.handle)  # type: ignore[no-any-return]

    def array(self, name: str, like: Array) -> Array:
        """An array of the state, where it is."""
        address = self.function("parameter")(self.handle, name.encode())
        assert address, name
        memory = memoryview((ctypes.c_uint8 * like.nbytes).from_address(address))
        return np.frombuffer(memory, like.dtype).reshape(like.shape)

    def state(self, like: Mapping[str, Array]) -> dict[str, Array]:
        """A copy of the state."""
        return {name: self.array(name, array).copy() for name, array in like.items()}

    def close(self) -> None:
        self.function("destroy")(self.handle)


def _pointers(arrays: Sequence[Array]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])


def _dims(sizes: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(sizes))(*sizes)
