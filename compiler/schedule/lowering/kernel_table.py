"""The kernels of a program. Networks repeat their layers, and equal layers share one kernel.

A *body* is the loops of a kernel. It is looked up by a key that says what it will compute, before
it is written, so that the loops of a repeated layer are not even built. A *kernel* is a body with
its buffers. It is looked up by its structure, so that equal loops from different places are
compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.loops import Block, Kernel
from bessemer.compiler.ir.walk_loops import structure
from bessemer.compiler.schedule.grouping.fuse import Fusion
from bessemer.compiler.schedule.symbols import kernel_symbols

Key = tuple[object, ...]


@dataclass(eq=False)
class KernelTable:
    """The kernels and bodies so far, and the names that are taken.

    `_known` has, for each body that `keep` was called with, its kernels, by everything else that
    they consist of. Bodies are found there by identity, which is safe only because the table keeps
    them alive.
    """

    _bodies: dict[Key, Block] = field(default_factory=dict)
    _known: dict[int, tuple[Block, dict[Key, Kernel]]] = field(default_factory=dict)
    _kernels: dict[Key, Kernel] = field(default_factory=dict)
    _names: dict[str, int] = field(default_factory=dict)

    def body(self, key: Key, reads: Fusion, probe: Fusion, lower: Callable[[], Block]) -> Block:
        """The body for a key: that of an equal kernel, or if there is none, what `lower` writes.

        `probe` is a copy of `reads` from which one element has been computed to make the key. It
        therefore has the buffers that an equal body reads; in the end `reads` has them, too. The
        body is kept only if `lower` met the buffers in the same order, because their names depend
        on the order.
        """
        found = self._bodies.get(key)
        if found is not None:
            reads.buffers.update(probe.buffers)
            return found
        made = lower()
        if [*reads.buffers] == [*probe.buffers]:
            self._bodies[key] = made
            self.keep(made)
        return made

    def keep(self, body: Block) -> None:
        """Makes the kernels of a body fast to find, because it will be launched again."""
        self._known[id(body)] = body, {}

    def kernel(
        self,
        stem: str,
        buffers: tuple[Buffer, ...],
        outputs: int,
        body: Block,
        operations: Size,
        members: int,
    ) -> Kernel:
        """The kernel that consists of these parts. Equal kernels are the same object. `stem` begins
        its name."""
        _, known = self._known.get(id(body), (body, dict[Key, Kernel]()))
        around = (buffers, outputs, operations, members)
        kernel = known.get(around)
        if kernel is None:
            symbols = kernel_symbols(body, buffers, operations)
            key = (buffers, outputs, symbols, structure(body), operations, members)
            kernel = self._kernels.get(key)
            if kernel is None:
                name = self._unique(stem)
                kernel = Kernel(name, buffers, outputs, symbols, body, operations, members)
                self._kernels[key] = kernel
            known[around] = kernel
        return kernel

    def _unique(self, stem: str) -> str:
        count = self._names.get(stem, 0) + 1
        name = stem if count == 1 else f"{stem}_{count}"
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names[stem] = count
        self._names.setdefault(name, 1)
        return name


def content(record: Any) -> Key:
    """The values of a record's fields without functions, as a part of a key. A record with
    functions is compared by identity, so it cannot be a key itself."""
    entries = (getattr(record, each.name) for each in fields(record))
    return tuple(entry for entry in entries if not callable(entry))
