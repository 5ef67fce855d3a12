"""The state of the code generator while it writes a kernel for a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field

from bessemer.compiler.codegen.kernels.alignment import largest_divisor
from bessemer.compiler.codegen.kernels.effects import written_buffers
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.ptx.local_arrays import KeptArray
from bessemer.compiler.codegen.values import Pointer, Value, literal
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import expr
from bessemer.compiler.ir.device import ThreadMapping
from bessemer.compiler.ir.dims import Atom, Size
from bessemer.compiler.ir.types import i32, i64
from bessemer.compiler.targets.nvptx import DeviceTarget

WIDEST_ACCESS = 16
"""The most bytes that one thread loads or stores at once. Every buffer begins at a multiple of
this."""
STATIC_SHARED = 48 << 10
"""Bytes of shared memory that a kernel may have without requesting them at its launch."""


@dataclass
class DeviceState(KernelState):
    """The kernel that is being written. Its buffers are the parameters %b0, %b1, ..., its symbols
    %d0, ...

    `kept` are the local arrays whose elements stay in the registers of the thread that computes
    them. `slot` is the number of the thread's vector that is being computed (see group_loops.py).
    """

    mapping: ThreadMapping = field(default_factory=ThreadMapping)
    kept: dict[str, KeptArray] = field(default_factory=dict)
    slot: int | None = None
    shared_used: int = 0
    _registers: dict[str, Value] = field(default_factory=dict)

    @property
    def device(self) -> DeviceTarget:
        """The target, as the description of a GPU."""
        assert isinstance(self.target, DeviceTarget)
        return self.target

    def hidden(self, index: Value) -> Value:
        return index

    # Parameters

    def base(self, buffer: expr.Buffer) -> Pointer:
        found = self.arrays.get(buffer.name)
        if found is None:
            position = [b.name for b in self.kernel.buffers].index(buffer.name)
            found = self.arrays[buffer.name] = Pointer(f"%b{position}", 0)
        return found

    def fault_cell(self) -> str:
        return "%fault"

    def sink(self) -> str:
        # In global memory too, so that the choice between the two has one address space.
        text = f"getelementptr i8, ptr {self.fault_cell()}, i64 4"
        return self.writer.compute(text, i64, 1, 0).text

    def dimension(self, name: str) -> Value:
        if name not in self.kernel.symbols:
            raise InternalError(f"{self.kernel.name} does not know the symbol {name}")
        return Value(f"%d{self.kernel.symbols.index(name)}", i64)

    # Threads

    def register(self, name: str) -> Value:
        """A special register, i32: "tid.x" is the thread's number in its block, "ctaid.x" that of
        the block."""
        found = self._registers.get(name)
        if found is None:
            intrinsic = f"llvm.nvvm.read.ptx.sreg.{name}"
            self.writer.declarations.add(f"declare i32 @{intrinsic}()")
            register = self.writer.name()
            self.writer.entry.append(f"  {register} = call i32 @{intrinsic}()")
            found = self._registers[name] = Value(register, i32)
        return found

    @property
    def rank(self) -> Value:
        """The thread's number in its group, i64."""
        w, thread = self.writer, self.register("tid.x")
        if self.mapping.group < self.mapping.threads:
            thread = w.operate("and", i32, thread, literal(self.mapping.group - 1, i32))
        return w.compute(f"zext nneg {thread.typed} to i64", i64, 1, thread.level)

    # Memory

    def shared(self, size: int, alignment: int = 16) -> str:
        """A generic pointer to `size` more bytes of the block's static shared memory. Raises
        InternalError if there are no more."""
        start = -(-self.shared_used // alignment) * alignment
        self.shared_used = start + size
        if self.shared_used > STATIC_SHARED:
            raise InternalError(f"{self.kernel.name} has more than {STATIC_SHARED} bytes shared")
        base = f"addrspacecast (ptr addrspace(3) @{self.kernel.name}_shared to ptr)"
        text = f"getelementptr i8, ptr {base}, i64 {start}"
        name = self.writer.name()
        self.writer.entry.append(f"  {name} = {text}")
        return name

    def alignment(self, buffer: expr.Buffer, offset: Size, lanes: int) -> int:
        size = buffer.dtype.bytes
        if lanes == 1:
            return size
        known: dict[Atom, int] = {}
        if self.vectors is not None:
            # All ways to write a vector loop begin a vector at a multiple of its width.
            known[self.vectors.symbol] = self.vectors.width
        best = size
        while best < min(WIDEST_ACCESS, size * lanes):
            if largest_divisor(offset, known) % (2 * best // size):
                break
            best *= 2
        return best

    def kept_element(self, buffer: expr.Buffer) -> Value | None:
        if buffer.name not in self.kept:
            return None
        return self.locals[self.kept_name(buffer.name)]

    def kept_name(self, array: str, slot: int | None = None) -> str:
        """The key in `locals` of a thread's vector of an array: of vector `slot`, or of the current
        one. Raises InternalError outside of vector loops."""
        chosen = self.slot if slot is None else slot
        if chosen is None:
            raise InternalError(f"{array} is kept in registers, but used outside of its loops")
        return f"{array}#{chosen}"

    @property
    def written(self) -> frozenset[str]:
        """The buffers that some statement stores to."""
        return written_buffers(self.kernel.body)
