"""Writes the sizes that a run body computes: dimension symbols, sizes derived from them, and
checks.

Some symbols have values when a run begins; others get them from the data. On every path through the
body, each symbol is set before a place in the arena is computed from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bessemer.compiler.codegen.body.body_writer import BodyWriter
from bessemer.compiler.codegen.kernels.set_symbols import set_by_kernel
from bessemer.compiler.codegen.support.sizes import OVERFLOW, SizeWriter, any_of
from bessemer.compiler.codegen.support.workspace import array_sizes, run_sizes
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.program import Launch, MemoryPlan, Program
from bessemer.runtime.artifact import Status


@dataclass(frozen=True, eq=False)
class Known:
    """What is known at a point of the body: the names that are `bound`, and what has not been
    checked yet, the ends of the arena's parts and the `required` sizes."""

    bound: frozenset[str]
    unchecked: tuple[Size, ...]
    required: Mapping[Size, str]


class BodySizes(BodyWriter):
    """A body's lines with its sizes. `bound` are the names that have values."""

    def __init__(self, program: Program, plan: MemoryPlan, prefix: str) -> None:
        super().__init__()
        self.program = program
        self.plan = plan
        self.prefix = prefix
        self.strings: dict[str, str] = {}
        self.places = {name: number for number, name in enumerate(program.symbols)}
        self.definitions = run_sizes(program, plan)
        self.derived = {name: number for number, name in enumerate(self.definitions)}
        self.sizes = SizeWriter(self.pure, self._symbol)
        self.overflows: list[str] = []
        self.checked = SizeWriter(self.pure, self._symbol, self.overflows)
        self.bound: set[str] = set()
        self.unchecked: list[Size] = list(plan.ends)
        self.arrays = array_sizes(program)
        self.required = dict(program.required)
        self.repeats = 0
        """How many loops are around what is being written."""

    def string(self, text: str) -> str:
        """The name of a C string with this text."""
        return self.strings.setdefault(text, f"{self.prefix}_text{len(self.strings)}")

    def _symbol(self, name: str) -> str:
        if name in self.derived:
            place = self.pure(f"getelementptr i64, ptr %derived, i64 {self.derived[name]}")
            return self.pure(f"load i64, ptr {place}")
        if name not in self.places:
            raise InternalError(f"no dimension symbol {name}")
        place = self.pure(f"getelementptr i64, ptr %dims, i64 {self.places[name]}")
        return self.pure(f"load i64, ptr {place}")

    def fail_if(self, condition: str, status: int, message: str) -> None:
        """Ends the run with a status and a message if a condition is true."""
        bad, good = self.label("bad"), self.label("good")
        self.put(f"br i1 {condition}, label %{bad}, label %{good}")
        self.begin(bad)
        text = f"ptr @{self.string(message)}"
        self.put(f"call void @bessemer_fail(ptr %context, i32 {status}, {text})")
        self.put(f"ret i32 {status}")
        self.begin(good)

    def set_symbol(self, name: str, value: str) -> None:
        """Stores the value of a dimension symbol."""
        place = self.let(f"getelementptr i64, ptr %dims, i64 {self.places[name]}")
        self.put(f"store i64 {value}, ptr {place}")
        self.known.clear()

    def note_bound(self, names: Iterable[str]) -> None:
        """Notes that these symbols have values now. Computes the sizes that follow from them, and
        checks the workspace."""
        names = set(names)
        self._forget(names & self.bound)
        self.bound |= names
        for name, definition in self.definitions.items():
            if name not in self.bound and dims.symbol_names(definition) <= self.bound:
                place = self.let(f"getelementptr i64, ptr %derived, i64 {self.derived[name]}")
                self.put(f"store i64 {self.checked.value(definition)}, ptr {place}")
                self.known.clear()
                self.bound.add(name)
        required = [size for size in self.required if dims.symbol_names(size) <= self.bound]
        signs = [(size, self.checked.value(size)) for size in required]
        end: Size = 0
        while self.unchecked and dims.symbol_names(self.unchecked[0]) <= self.bound:
            end = self.unchecked.pop(0)
        need = self.checked.value(end)
        for size in self.arrays:
            self.checked.value(size)
        self.arrays = []
        self._check_overflow()
        self._check_required(signs)
        if end != 0:
            self._check_workspace(need)

    def _forget(self, names: set[str]) -> None:
        """Forgets symbols that are bound again, as by a loop that is written twice, and the sizes
        that follow from them."""
        lost = set(names)
        for name, definition in self.definitions.items():
            if dims.symbol_names(definition) & lost:
                lost.add(name)
        self.bound -= lost
        ends = self.plan.ends
        kept = len(ends) - len(self.unchecked)
        kept = next((k for k in range(kept) if dims.symbol_names(ends[k]) & lost), kept)
        self.unchecked = list(ends[kept:])
        required = self.program.required.items()
        self.required |= {size: text for size, text in required if dims.symbol_names(size) & lost}

    def _check_overflow(self) -> None:
        """Fails if sizes that come from the caller or the data have overflowed."""
        if self.overflows:
            too_large = any_of(self.let, self.overflows)
            self.overflows.clear()
            self.fail_if(too_large, Status.OUT_OF_MEMORY, OVERFLOW)

    def _check_required(self, signs: Iterable[tuple[Size, str]]) -> None:
        """Fails if a size is negative; each size is checked once."""
        for size, register in signs:
            negative = self.let(f"icmp slt i64 {register}, 0")
            message = f"{self.required.pop(size)}: an input is too small: a size is negative"
            self.fail_if(negative, Status.SHAPE_MISMATCH, message)

    def _check_workspace(self, size: str) -> None:
        """Fails if the workspace is too small for the parts of the arena whose size is known by
        now."""
        small = self.let(f"icmp ult i64 %bytes, {size}")
        bad, good = self.label("small"), self.label("fits")
        self.put(f"br i1 {small}, label %{bad}, label %{good}")
        self.begin(bad)
        if self.repeats:
            # The next iteration may want a little more, and the next run begins at the beginning.
            size = self.let(f"call i64 @llvm.sadd.sat.i64(i64 {size}, i64 {size})")
        self.put(f"call void @bessemer_need(ptr %context, i64 {size})")
        self.put(f"ret i32 {Status.WORKSPACE_TOO_SMALL}")
        self.begin(good)

    def read_back(self, step: Launch) -> None:
        """Makes dimension symbols that a kernel has set known to the program."""
        names = set_by_kernel(step.kernel)
        for number, name in enumerate(step.kernel.symbols):
            if name in names:
                place = self.let(f"getelementptr i64, ptr %arguments, i64 {number}")
                value = self.let(f"load i64, ptr {place}")
                self.set_symbol(name, value)
        if names:
            self.note_bound(names)

    def note_absent(self, names: set[str]) -> None:
        """Gives a value to sizes that are set only on the other path through a branch, because the
        places of later values depend on them.

        The value is 1, which may be divided by. No value has such a size, so it is not checked
        whether it fits.
        """
        if not names:
            return
        for name in sorted(names):
            self.set_symbol(name, "1")
        for size in list(self.required):
            if dims.symbol_names(self.program.expanded(size)) & names:
                del self.required[size]
        self.note_bound(names)

    def known_now(self) -> Known:
        """What is known here, for `forget_back_to`."""
        return Known(frozenset(self.bound), tuple(self.unchecked), dict(self.required))

    def forget_back_to(self, known: Known) -> None:
        """Returns to what was known at an earlier point, to write another path through the body."""
        self.bound, self.unchecked = set(known.bound), list(known.unchecked)
        self.required = dict(known.required)
