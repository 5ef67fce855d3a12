"""Writes operations on mbarriers: barriers in shared memory that threads and copies complete.

A barrier has a phase. The phase ends when the arrivals that the barrier was made for, and all the
bytes that they announced, have come. Threads wait for the end of a phase by its parity.
"""

from __future__ import annotations

from bessemer.compiler.codegen.kernels.control_flow import while_loop
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.ptx import shared_memory
from bessemer.compiler.codegen.ptx.words import Word, Words
from bessemer.compiler.codegen.values import Value
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir.types import boolean, i64

BYTES = 8
_SCOPE = "scope.cta.space.cta"


def initialize(w: Writer, at: Word, arrivals: int) -> None:
    """Makes a barrier for so many arrivals; its first phase has parity 0."""
    w.declarations.add("declare void @llvm.nvvm.mbarrier.init.shared(ptr addrspace(3), i32)")
    place = shared_memory.place(w, at)
    w.line(f"call void @llvm.nvvm.mbarrier.init.shared({place}, i32 {arrivals})")


def publish(w: Writer) -> None:
    """Makes initialized barriers visible to copies as well."""
    w.declarations.add("declare void @llvm.nvvm.fence.mbarrier_init.release.cluster()")
    w.line("call void @llvm.nvvm.fence.mbarrier_init.release.cluster()")


def arrive(w: Writer, at: Word) -> None:
    """One thread's arrival."""
    w.declarations.add("declare i64 @llvm.nvvm.mbarrier.arrive.shared(ptr addrspace(3))")
    w.here(f"call i64 @llvm.nvvm.mbarrier.arrive.shared({shared_memory.place(w, at)})", i64)


def expect(w: Writer, at: Word, bytes_: int) -> None:
    """Arrives once, and announces so many bytes, which copies will bring."""
    name = f"llvm.nvvm.mbarrier.arrive.expect.tx.{_SCOPE}"
    w.declarations.add(f"declare i64 @{name}(ptr addrspace(3), i32)")
    w.here(f"call i64 @{name}({shared_memory.place(w, at)}, i32 {bytes_})", i64)


def wait(state: KernelState, at: Word, parity: Word) -> None:
    """Waits until the phase of this parity has ended."""
    w, words = state.writer, Words(state.writer)
    name = f"llvm.nvvm.mbarrier.try.wait.parity.{_SCOPE}"
    w.declarations.add(f"declare i1 @{name}(ptr addrspace(3), i32)")
    place, wanted = shared_memory.place(w, at), words.value(parity).typed

    def missing() -> Value:
        ended = w.here(f"call i1 @{name}({place}, {wanted})", boolean)
        return w.here(f"xor {ended.typed}, true", boolean)

    while_loop(state, (), frozenset(), missing, lambda: None)
