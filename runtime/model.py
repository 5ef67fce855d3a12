"""Compiled models as Python callables, whether just compiled or loaded from a file."""

from __future__ import annotations

import ctypes
import importlib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from bessemer.runtime.argument_order import Inputs, Outputs
from bessemer.runtime.arrays import Array
from bessemer.runtime.artifact import ArrayInfo, Placement, Signature
from bessemer.runtime.cuda.program_place import is_program_file
from bessemer.runtime.errors import ArtifactError, InputError
from bessemer.runtime.growing import GrowingRunner
from bessemer.runtime.library import open_library
from bessemer.runtime.native import NativeModel
from bessemer.runtime.runner import Runner
from bessemer.runtime.strings import StringCalls, given_arrays

if TYPE_CHECKING:
    from bessemer.runtime.cuda.driver import Driver
    from bessemer.runtime.cuda.model import DeviceModel

__all__ = ["CompiledModel", "Inputs", "Memory", "Outputs", "load"]


@dataclass(frozen=True)
class Memory:
    """What a model holds, in bytes; `arenas` is the sum over its contexts."""

    weights: int
    arenas: int
    contexts: int


class CompiledModel:
    """A model that runs; safe to call from several threads at once.

    Every call in progress has a context (thread pool and arena) of its own; contexts are made when
    they are needed and kept. Where many Python threads call the same model, `threads=1` is best.
    """

    def __init__(
        self,
        native: NativeModel,
        *,
        weights: Array | None = None,
        weights_path: str = "",
        threads: int = 0,
        saver: Callable[..., list[Path]] | None = None,
    ) -> None:
        """For the compiler and `load`. `weights` are kept alive; `saver` writes the artifact."""
        self._saver = saver
        runner = GrowingRunner if native.signature.rooms else Runner
        self._runner = runner(native, weights, weights_path, threads)
        entry = self._runner.entry(CompiledModel.run.__doc__ or "")
        self._run = self._runner.run
        if native.signature.strings is not None:
            self._run = StringCalls(native.signature, entry or self._run).run
        elif entry is not None and type(self).run is CompiledModel.run:
            # In the object it goes before the method of the class.
            vars(self)["run"] = entry

    @property
    def signature(self) -> Signature:
        """Names, dtypes, shapes, symbols, target and precision."""
        return self._runner.native.signature

    @property
    def inputs(self) -> tuple[ArrayInfo, ...]:
        """The inputs, in the order in which a sequence of arrays is taken."""
        return given_arrays(self.signature)

    @property
    def outputs(self) -> tuple[ArrayInfo, ...]:
        """The outputs, in the order of the list that `run` returns."""
        return self.signature.outputs

    @property
    def threads(self) -> int:
        """How many threads one call uses."""
        call = self._runner.take()
        try:
            return self._runner.native.threads(call.handle)
        finally:
            self._runner.give_back(call)

    def run(self, inputs: Inputs, out: Outputs | None = None) -> list[Array]:
        """The outputs for these inputs, given by name or in order.

        C-contiguous arrays of the right dtype are read in place, others are copied first. `out` (by
        name, in order, or the one array of a model with one output; None entries are allocated)
        receives the outputs; it must not overlap the inputs, but an output that updates an input
        (`signature.updates`) may be in its array, if it is of one shape with it, and one that
        continues an input (`signature.rooms`) may be the first places of an array that begins with
        that input. Without `out` the outputs are new arrays.
        Raises InputError for arguments that do not fit, ExecutionError where the model refuses
        their contents, MemoryError.
        Strings are arrays of str: of any such dtype when they go in, of objects when they come out.
        """
        return self._run(inputs, out)

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """Runs on arrays in order or by name; the one output, or the list of them where several."""
        if arrays and named:
            raise InputError("Give the inputs either in order or by name, not both.")
        outputs = self.run(named if named else arrays)
        return outputs[0] if len(outputs) == 1 else outputs

    def save(
        self,
        path: str | Path,
        placement: Placement = "inside",
        linker: str = "",
    ) -> list[Path]:
        """Writes the artifact (.so, .o or .a) and its header; the files written.

        `placement` is that of the weights: inside the artifact, or in a file beside it. `linker` is
        a C compiler's command, for a .so.
        Raises CompileError where it cannot be built, ArtifactError where the model was loaded.
        """
        if self._saver is None:
            raise ArtifactError("This model was loaded from a file: copy that file instead.")
        return self._saver(path, placement, linker)

    def workspace_bytes(self, **symbols: int) -> int:
        """The arena that a run needs for these values of the input symbols."""
        names = self.signature.symbols
        wanted = names[: self.signature.input_symbols]
        if set(symbols) != set(wanted):
            raise InputError(f"Give the sizes of {', '.join(wanted) or 'nothing'}.")
        if wrong := [name for name in wanted if not _is_size(symbols[name])]:
            raise InputError(f"{wrong[0]}={symbols[wrong[0]]!r} is not a size.")
        dims = (ctypes.c_int64 * (len(names) + 1))(*[symbols[name] for name in wanted])
        return self._runner.native.workspace_bytes(ctypes.addressof(dims))

    def __reduce__(self) -> str:
        raise TypeError("A compiled model cannot be pickled or copied: save it, and load the file.")

    def memory(self) -> Memory:
        """What the model holds now; contexts in the middle of a call are not counted."""
        arenas = self._runner.arena_bytes()
        return Memory(self.signature.weights_bytes, sum(arenas), len(arenas))

    def trim(self) -> None:
        """Gives back arenas and contexts that no call is using; the next call makes them anew."""
        self._runner.trim()

    def __repr__(self) -> str:
        def listed(arrays: Sequence[ArrayInfo]) -> str:
            return ", ".join(
                f"{info.name}: {info.dtype}[{', '.join(map(str, info.shape))}]" for info in arrays
            )

        signature = self.signature
        return (
            f"CompiledModel({signature.name}: ({listed(self.inputs)})"
            f" -> ({listed(signature.outputs)}), {signature.triple})"
        )


def _is_size(given: Any) -> bool:
    try:
        return 0 <= operator.index(given) < 1 << 63
    except TypeError:
        return False


@overload
def load(
    path: str | Path, *, threads: int = 0, weights: str | Path = "", name: str = ""
) -> CompiledModel: ...


@overload
def load(path: str | Path, *, device: int, driver: Driver | None = None) -> DeviceModel: ...


def load(
    path: str | Path,
    *,
    threads: int = 0,
    weights: str | Path = "",
    name: str = "",
    device: int | None = None,
    driver: Driver | None = None,
) -> CompiledModel | DeviceModel:
    """A model from a file that `save` or `bessemer compile` has written.

    `threads` 0 means all processors that the process may use. `weights` is the weights' file, where
    it is not beside the library under its name with .weights. `name` chooses a model by its C
    prefix where the library holds several. A model for GPUs goes to the device of this number, 0
    if none is given, of libcuda or another driver, and is a DeviceModel. Raises ArtifactError, and
    for GPUs DeviceError.
    """
    library = Path(path)
    if is_program_file(library):
        # Most programs never need what runs GPUs, and importing it takes a while.
        cuda: Any = importlib.import_module("bessemer.runtime.cuda.load")
        on_device: DeviceModel = cuda.load_for_device(library, driver, device or 0)
        return on_device
    if device is not None:
        raise ArtifactError(f"{library} is not a model for GPUs: load it without a device.")
    native = open_library(library, name)
    beside = Path(weights) if weights else library.with_suffix(".weights")
    return CompiledModel(native, weights_path=str(beside.resolve()), threads=threads)
