"""Streaming (non-temporal) stores, for outputs that no cache would keep until they are read.

An ordinary store to a line that is in no cache first reads it from memory, and later evicts other
lines. A streaming one does neither, but requires an address that is a multiple of the vector's
size. So a kernel with streaming stores is compiled in two forms, and looks at the addresses of its
arrays when it begins.

The streaming stores of all cores together may be no faster than those of one (43 GB/s, where
ordinary stores of two cores reached 115 in their common last cache): several threads stream only
what that cache cannot hold. Where it just cannot, each streams half of its rows, every other thread
the last half: at any time some threads wait for memory, and others for the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.codegen.kernels.alignment import largest_divisor
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.values import Pointer, Value
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir import dims, loops, walk_loops
from bessemer.compiler.ir.dims import Atom, Size, product
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.targets.machine import CACHE_LINE

METADATA = "!0 = !{i32 1}\n"
"""The metadata that a module with streaming stores needs."""
_FENCE = "llvm.x86.sse.sfence"
_STREAMING, _USUAL, _HALVES = "streaming", "usual", "halves"
"""How a thread stores its share of the iterations."""
_SIGNATURE = "(ptr %buffers, ptr %dims, i64 %begin, i64 %end)"


def streamed_buffers(kernel: Kernel) -> list[str]:
    """The buffers that a kernel should write by streaming stores, if it can."""
    found = (s.buffer.name for s in walk_loops.walk(kernel.body) if isinstance(s, loops.Stream))
    return list(dict.fromkeys(found))


def is_streamed(state: KernelState, buffer: Buffer, offset: Size, lanes: int) -> bool:
    """Whether a store of this many lanes from this offset on is a streaming one; it must consist of
    whole lines."""
    if buffer.name not in state.streaming or state.vectors is None:
        return False
    # All vector loops begin a vector at a multiple of its width.
    known: dict[Atom, int] = {state.vectors.symbol: state.vectors.width}
    first = largest_divisor(state.size(offset), known) * buffer.dtype.bytes
    return first % CACHE_LINE == 0 and lanes * buffer.dtype.bytes % CACHE_LINE == 0


def store(w: Writer, pointer: Pointer, value: Value) -> None:
    """A streaming store of whole cache lines."""
    w.line(f"store {value.typed}, ptr {w.at(pointer)}, align {CACHE_LINE}, !nontemporal !0")


def end(state: KernelState) -> None:
    """Makes the streaming stores visible to other threads before any later store of this
    thread."""
    state.writer.declarations.add(f"declare void @{_FENCE}()")
    state.writer.line(f"call void @{_FENCE}()")


def form_names(kernel: Kernel) -> tuple[str, str]:
    """The names of the functions that do and do not use streaming stores."""
    return f"{kernel.name}_streaming", f"{kernel.name}_usual"


def chooser(kernel: Kernel, streamed: Sequence[str], last_cache: int) -> str:
    """The kernel's own function, which calls one of its forms: the usual one if those arrays do not
    begin at cache lines."""
    names = [buffer.name for buffer in kernel.buffers]
    lines = [f"define internal void @{kernel.name}{_SIGNATURE} nounwind {{", "entry:"]
    together = "0"
    for number, name in enumerate(streamed):
        lines += [
            f"  %at{number} = getelementptr i8, ptr %buffers, i64 {8 * names.index(name)}",
            f"  %array{number} = load ptr, ptr %at{number}, align 8",
            f"  %address{number} = ptrtoint ptr %array{number} to i64",
            f"  %together{number} = or i64 %address{number}, {together}",
        ]
        together = f"%together{number}"
    lines += [
        f"  %rest = and i64 {together}, {CACHE_LINE - 1}",
        "  %begins = icmp eq i64 %rest, 0",
        "  %count = sub i64 %end, %begin",
        f"  br i1 %begins, label %lines, label %{_USUAL}",
        "lines:",
        *_choice(kernel, last_cache),
    ]
    streaming, usual = form_names(kernel)
    lines += [
        f"{_STREAMING}:",
        *_calls((streaming, "%begin", "%end")),
        f"{_USUAL}:",
        *_calls((usual, "%begin", "%end")),
        f"{_HALVES}:",
        "  %half = sdiv i64 %count, 2",
        "  %middle = add i64 %begin, %half",
        # All threads have about as many iterations.
        "  %many = or i64 %count, 1",
        "  %thread = sdiv i64 %middle, %many",
        "  %is_odd = trunc i64 %thread to i1",
        "  br i1 %is_odd, label %odd, label %even",
        "even:",
        *_calls((streaming, "%begin", "%middle"), (usual, "%middle", "%end")),
        "odd:",
        *_calls((usual, "%begin", "%middle"), (streaming, "%middle", "%end")),
    ]
    return "\n".join([*lines, "}", ""])


def _calls(*calls: tuple[str, str, str]) -> list[str]:
    """Calls of forms for ranges of the parallel loop, one after the other."""
    texts = [
        f"  tail call void @{form}(ptr %buffers, ptr %dims, i64 {begin}, i64 {end})"
        for form, begin, end in calls
    ]
    return [*texts, "  ret void"]


def _choice(kernel: Kernel, last_cache: int) -> list[str]:
    """The branch to the form for this range of items. A thread that runs alone streams
    everything.

    Measured on Zen 5 with arrays of 32 MiB in all, a cache of the same size, and two threads, in
    GB/s for layer norm, softmax and GELU:

        two cores copy        ordinary stores    streaming          halves
        200 GB/s              140, 121, 145      139, 145, 149      159, 135, 152
        120 GB/s               84,  73, 112       82,  82,  83      111, 100, 120
        arrays of 48 MiB       69,  57,  81      110, 112, 101       83,  71,  88
    """
    extent = kernel.parallel_extent
    sizes = [product(buffer.shape) * buffer.dtype.bytes for buffer in kernel.buffers]
    total = dims.total(sizes)
    if not isinstance(extent, int) or not isinstance(total, int):
        return [f"  br label %{_STREAMING}"]
    shared = _USUAL
    if total >= last_cache:
        shared = _HALVES if 8 * total <= 9 * last_cache else _STREAMING
    return [
        f"  %alone = icmp sge i64 %count, {extent}",
        f"  br i1 %alone, label %{_STREAMING}, label %{shared}",
    ]
