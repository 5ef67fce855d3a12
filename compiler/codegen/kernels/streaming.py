"""Stores past the caches, for outputs that no cache would keep until they are read.

An ordinary store to a line that is in no cache first reads it from memory, and later pushes other
lines out. A streaming one does neither, but wants an address that the vector's size divides: a
kernel that streams is there twice, and looks at the addresses of its arrays when it begins.

All cores together may store no faster past the caches than one of them (43 GB/s, where ordinary
stores of two cores reached 115 in their common last cache): several threads stream only what that
cache cannot hold.
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
"""What a module with streaming stores must hold."""
_FENCE = "llvm.x86.sse.sfence"
_SIGNATURE = "(ptr %buffers, ptr %dims, i64 %begin, i64 %end)"


def streamed_buffers(kernel: Kernel) -> list[str]:
    """The buffers that a kernel would like to store to past the caches."""
    found = (s.buffer.name for s in walk_loops.walk(kernel.body) if isinstance(s, loops.Stream))
    return list(dict.fromkeys(found))


def passes_by(state: KernelState, buffer: Buffer, offset: Size, lanes: int) -> bool:
    """Whether a store of so many lanes from this offset on streams: all of it are whole lines."""
    if buffer.name not in state.streaming or state.vectors is None:
        return False
    # All vector loops begin a vector at a multiple of its width.
    known: dict[Atom, int] = {state.vectors.symbol: state.vectors.width}
    first = largest_divisor(state.size(offset), known) * buffer.dtype.bytes
    return first % CACHE_LINE == 0 and lanes * buffer.dtype.bytes % CACHE_LINE == 0


def store(w: Writer, pointer: Pointer, value: Value) -> None:
    """A streaming store of whole lines."""
    w.line(f"store {value.typed}, ptr {w.at(pointer)}, align {CACHE_LINE}, !nontemporal !0")


def end(state: KernelState) -> None:
    """Other threads see what this one has stored before anything that it does from here on."""
    state.writer.declarations.add(f"declare void @{_FENCE}()")
    state.writer.line(f"call void @{_FENCE}()")


def form_names(kernel: Kernel) -> tuple[str, str]:
    """The functions that do and do not stream."""
    return f"{kernel.name}_streaming", f"{kernel.name}_usual"


def chooser(kernel: Kernel, streamed: Sequence[str], last_cache: int) -> str:
    """The kernel itself, which goes on to the streaming form if those arrays begin at lines, and it
    is alone or the arrays are large."""
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
        f"  %alone = icmp sge i64 %count, {_fewest_alone(kernel, last_cache)}",
        "  %fits = and i1 %begins, %alone",
        "  br i1 %fits, label %form0, label %form1",
    ]
    for number, form in enumerate(form_names(kernel)):
        lines += [f"form{number}:", f"  tail call void @{form}{_SIGNATURE}", "  ret void"]
    return "\n".join([*lines, "}", ""])


def _fewest_alone(kernel: Kernel, last_cache: int) -> int:
    """How many iterations of its parallel loop a thread does at least if it stores past caches: all
    of them, unless the arrays fill the last cache. (16 MiB in and out, 32 MiB of cache, two
    threads: ordinary stores 98 GB/s, past the caches 71 on Zen 5; 40 and 89 on Zen 4.)"""
    extent = kernel.parallel_extent
    sizes = [product(buffer.shape) * buffer.dtype.bytes for buffer in kernel.buffers]
    total = dims.total(sizes)
    if not isinstance(extent, int) or not isinstance(total, int) or total >= last_cache:
        return 0
    return extent
