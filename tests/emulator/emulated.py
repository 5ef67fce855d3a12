"""Runs scraps of PTX on the emulator: one instruction over arrays, or a whole body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.runtime.cuda.driver import pointer
from emulator.driver import EmulatedDriver
from emulator.schedule import Schedule

Array = NDArray[Any]

HEAD = ".version 8.6\n.target sm_90a\n.address_size 64\n"
REGISTERS = """
.reg .b64 %base<16>, %at<16>, %rd<64>;
.reg .b32 %thread, %n, %r<64>;
.reg .b16 %rs<64>;
.reg .f32 %f<64>;
.reg .f64 %d<16>;
.reg .pred %p<16>;
"""


def kernel(parameters: int, body: str, variables: str = "", directives: str = "") -> str:
    """A module with the kernel k(p0, p1, ...) of 64-bit parameters, held in %base0, %base1, ..."""
    names = ", ".join(f".param .u64 p{place}" for place in range(parameters))
    loads = "".join(f"ld.param.u64 %base{place}, [p{place}];\n" for place in range(parameters))
    return (
        f"{HEAD}{variables}\n.visible .entry k({names}) {directives}\n{{{REGISTERS}\n"
        f"mov.u32 %thread, %tid.x;\n{loads}{body}\nret;\n}}\n"
    )


class Device:
    """A driver with a module's kernel k, and arrays on it."""

    def __init__(self, text: str, schedule: Schedule | None = None) -> None:
        self.driver = EmulatedDriver(schedule or Schedule())
        self.driver.open(0)
        self._function = self.driver.function(self.driver.load_module(text.encode()), "k")

    def put(self, array: Array) -> int:
        address = self.driver.allocate(array.nbytes)
        self.driver.copy_in(address, np.ascontiguousarray(array), 0)
        return address

    def get(self, address: int, like: Array) -> Array:
        result = np.empty_like(like)
        self.driver.copy_out(result, address, 0)
        return result

    def launch(
        self,
        addresses: Sequence[int | bytes],
        threads: int = 32,
        blocks: int = 1,
        shared: int = 0,
    ) -> None:
        if shared > 48 << 10:
            self.driver.allow_shared(self._function, shared)
        self.driver.launch(
            self._function,
            (blocks, 1, 1),
            (threads, 1, 1),
            shared,
            0,
            [one if isinstance(one, bytes) else pointer(one) for one in addresses],
        )


def run(
    body: str,
    inputs: Sequence[Array],
    output: Array,
    threads: int = 32,
    schedule: Schedule | None = None,
    variables: str = "",
    **launch: int,
) -> Array:
    """Runs `body` with the inputs at %base0, ... and the output, as it is, behind them;
    gives the output after.
    """
    device = Device(kernel(len(inputs) + 1, body, variables), schedule)
    addresses = [device.put(one) for one in (*inputs, output)]
    device.launch(addresses, threads, **launch)
    return device.get(addresses[-1], output)


_LETTERS = {1: "rs", 2: "rs", 4: "r", 8: "rd"}


def _register(number: int, size: int) -> str:
    return f"%{_LETTERS[size]}{number}"


def apply(instruction: str, inputs: Sequence[Array], output: type[Any]) -> Array:
    """One result a thread of an instruction written with $0 (the result), $1, $2, ... (the inputs).

    A result of type np.bool_ comes from the predicate %p0: write it as %p0.
    """
    inputs = np.broadcast_arrays(*inputs)
    threads = len(inputs[0])
    is_predicate = output is np.bool_
    kind = np.dtype(np.uint32 if is_predicate else output)
    body, text = "", instruction
    for place, one in reversed(list(enumerate(inputs, 1))):
        register = _register(place, one.itemsize)
        body += (
            f"mad.wide.u32 %at{place}, %thread, {one.itemsize}, %base{place - 1};\n"
            f"ld.global.b{8 * one.itemsize} {register}, [%at{place}];\n"
        )
        text = text.replace(f"${place}", register)
    result = _register(0, kind.itemsize)
    body += text.replace("$0", result) + "\n"
    if is_predicate:
        body += f"selp.b32 {result}, 1, 0, %p0;\n"
    body += (
        f"mad.wide.u32 %at0, %thread, {kind.itemsize}, %base{len(inputs)};\n"
        f"st.global.b{8 * kind.itemsize} [%at0], {result};\n"
    )
    found = run(body, [np.array(one) for one in inputs], np.zeros(threads, kind), threads)
    return found.astype(np.bool_) if is_predicate else found


def elementwise(function: Callable[..., object], *inputs: Array) -> list[Any]:
    """`function` of Python numbers, element by element."""
    arrays = np.broadcast_arrays(*inputs)
    return [function(*values) for values in zip(*(one.tolist() for one in arrays))]
