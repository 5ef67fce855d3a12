"""The C functions of one model, as Python calls them: the same whether loaded or just compiled."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bessemer.runtime.artifact import STATUS_TEXTS, Signature, Status
from bessemer.runtime.entry import VERSION as ENTRY_VERSION
from bessemer.runtime.errors import ArtifactError, ExecutionError, InputError
from bessemer.runtime.thread_count import NO_THREAD_COUNT, is_thread_count

_LOG = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p)
_POINTER, _INT32, _INT64, _TEXT = (
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.c_int64,
    ctypes.c_char_p,
)


class Options(ctypes.Structure):
    """PREFIX_options of the C header."""

    _fields_ = (
        ("threads", ctypes.c_int32),
        ("spin_microseconds", ctypes.c_int32),
        ("weights", ctypes.c_void_p),
        ("weights_path", ctypes.c_char_p),
        ("parallel_for", ctypes.c_void_p),
        ("parallel_user", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("memory_user", ctypes.c_void_p),
        ("log", _LOG),
        ("log_user", ctypes.c_void_p),
    )


@dataclass(frozen=True, eq=False)
class NativeModel:
    """A model's functions; `address_of` is asked for the C name without the prefix.

    `keep_alive` is what the code lives in (a library's handle, a JIT engine). `python_entry` is the
    address of the function that entry.py makes callable, or 0 where there is none.
    """

    signature: Signature
    create: Callable[..., int]
    destroy: Callable[..., None]
    run: Callable[..., int]
    message: Callable[..., bytes]
    workspace_bytes: Callable[..., int]
    arena_bytes: Callable[..., int]
    trim: Callable[..., None]
    threads: Callable[..., int]
    keep_alive: object
    python_entry: int = 0


def bind(address_of: Callable[[str], int], keep_alive: object) -> NativeModel:
    """The functions behind these addresses; raises ArtifactError for an unknown format.

    `address_of` gives 0 for a function that the artifact has not.
    """

    def function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        return ctypes.CFUNCTYPE(result, *arguments)(address_of(name))

    metadata: bytes = function("metadata", _TEXT)()
    # Pointers go in as numbers: making ctypes pointers of them would cost more than the call.
    return NativeModel(
        signature=Signature.from_json(metadata.decode()),
        create=function("create", _INT32, _POINTER, _POINTER),
        destroy=function("destroy", None, _POINTER),
        run=function("run", _INT32, *[_POINTER] * 5, ctypes.c_size_t),
        message=function("message", _TEXT, _POINTER),
        workspace_bytes=function("workspace_bytes", _INT64, _POINTER),
        arena_bytes=function("arena_bytes", _INT64, _POINTER),
        trim=function("trim", None, _POINTER),
        threads=function("threads", _INT32, _POINTER),
        keep_alive=keep_alive,
        python_entry=address_of(f"python_{ENTRY_VERSION}"),
    )


class Context:
    """One PREFIX_context; freed with this object. `handle` is its address.

    Raises InputError for what is not a number of threads, ArtifactError where the processor or the
    weights do not fit, MemoryError, or ExecutionError, with the text that the C code gave its log.
    """

    def __init__(
        self, model: NativeModel, threads: int = 0, weights: int = 0, weights_path: str = ""
    ) -> None:
        if not is_thread_count(threads):
            raise InputError(f"threads={threads!r} {NO_THREAD_COUNT}")
        texts: list[str] = []

        def keep(_user: object, _status: int, text: bytes) -> None:
            texts[:] = [text.decode(errors="replace")]

        log = _LOG(keep)
        options = Options(threads=threads, weights=weights or None, log=log)
        if weights_path:
            options.weights_path = os.fsencode(weights_path)
        found = ctypes.c_void_p()
        status = model.create(ctypes.addressof(found), ctypes.addressof(options))
        if status:
            raise _refused(status, "".join(texts))
        assert found.value is not None
        self.handle: int = found.value
        # The log lives as long as the context that may call it.
        self._release = weakref.finalize(self, _destroy, model, self.handle, log)
        # When Python ends, threads may still be inside a run: then the system frees everything.
        self._release.atexit = False


def _destroy(model: NativeModel, handle: int, _log: object) -> None:
    model.destroy(handle)


def _refused(status: int, text: str) -> Exception:
    message = text or STATUS_TEXTS.get(Status(status), "")
    match status:
        case Status.WEIGHTS:
            return ArtifactError(f"The model cannot be used here: {message}.")
        case Status.CPU_UNSUPPORTED:
            return ArtifactError(
                f"The model cannot be used here: {message}. Compile it on this machine, or with "
                "--target for one that has less."
            )
        case Status.OUT_OF_MEMORY:
            return MemoryError(message)
        case _:
            return ExecutionError(f"The model could not be set up: {message}.", status)
