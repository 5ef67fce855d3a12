"""Calls functions of the support code alone, while the test plays others that they call.

So a test is the clock, the workers or the model's own code, and what the support code decides does
not depend on the machine.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping
from typing import Any

from bessemer.compiler.codegen.artifact.machine import Machine, compile_object, place_object
from bessemer.compiler.codegen.support.layout import CONTEXT, OPTIONS, POOL, SLOT, Layout
from bessemer.compiler.codegen.support.run import GRAPH
from bessemer.compiler.codegen.support.support import shared_texts
from tests.handmade import HOST

_KINDS: dict[str, Any] = {
    "void": None,
    "i1": ctypes.c_bool,
    "i8": ctypes.c_int8,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "ptr": ctypes.c_void_p,
}


def _kind(kind: str) -> Any:
    if kind.startswith("["):
        count, element = kind.strip("[]").split(" x ")
        return _KINDS[element] * int(count)
    return _KINDS[kind]


def _struct(layout: Layout) -> Any:
    """A layout as ctypes has it."""
    fields = [(name, _kind(kind)) for name, kind in layout.fields]
    return type(layout.name, (ctypes.Structure,), {"_fields_": fields})


_KINDS["%bessemer.options"] = _struct(OPTIONS)
Context, Pool, Slot, Graph = map(_struct, (CONTEXT, POOL, SLOT, GRAPH))

# Code is never removed: a test's functions refer to what calls them.
_KEPT: list[Any] = []
_FUNCTION = r"define hidden (\w+) @{}\(([^)]*)\)[^{{]*\{{.*?\n\}}\n"


class SupportCode:
    """The support code, in which Python functions stand for some of its own, by their names."""

    def __init__(self, played: Mapping[str, Callable[..., Any]]) -> None:
        self._text = shared_texts(HOST, (), has_entry=False)[0]
        callbacks = [self._play(name, function) for name, function in played.items()]
        machine, text = Machine(HOST), self._text.replace("define hidden ", "define ")
        # What an artifact says of its weights.
        text = re.sub(
            r"= external hidden constant (.*?)(?=,|\n)", r"= constant \1 zeroinitializer", text
        )
        self._engine = place_object(compile_object(text, machine), machine)
        _KEPT.append((self._engine, callbacks))

    def __getitem__(self, name: str) -> Any:
        """One of its functions, to be called with numbers and pointers."""
        prototype = _prototype(*self._head(name).groups())
        return prototype(self._engine.get_function_address(name))

    def _head(self, name: str) -> re.Match[str]:
        (head,) = re.finditer(_FUNCTION.format(name), self._text, re.DOTALL)
        return head

    def _play(self, name: str, function: Callable[..., Any]) -> Any:
        """Lets the code call the function, which is returned as C sees it."""
        head = self._head(name)
        result, parameters = head.groups()
        callback = _prototype(result, parameters)(function)
        address = ctypes.cast(callback, ctypes.c_void_p).value
        call = f"call {result} %played({parameters})"
        end = f"  {call}\n  ret void" if result == "void" else f"  %r = {call}\n  ret {result} %r"
        self._text = (
            f"{self._text[: head.start()]}define hidden {result} @{name}({parameters}) {{\n"
            f"  %played = inttoptr i64 {address} to ptr\n{end}\n}}\n{self._text[head.end() :]}"
        )
        return callback


def _prototype(result: str, parameters: str) -> Any:
    kinds = [part.split()[0] for part in parameters.split(",") if part.strip()]
    return ctypes.CFUNCTYPE(_kind(result), *map(_kind, kinds))
