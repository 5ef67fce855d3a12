"""The names that are known at a point of a kernel, for the verifier."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bessemer.compiler.ir.dims import Symbol
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.loops import Fragment
from bessemer.compiler.ir.types import DType


@dataclass(frozen=True)
class Scope:
    """Buffers and fragments by name, locals' types, and indices."""

    buffers: dict[str, Buffer]
    locals: dict[str, DType]
    fragments: dict[str, Fragment]
    indices: frozenset[Symbol]

    def names(self) -> set[str]:
        """Every name in use."""
        found = {*self.buffers, *self.locals, *self.fragments}
        return found | {index.name for index in self.indices}

    def inner(self, *indices: Symbol) -> Scope:
        """The scope of a block, in which further indices are known."""
        return replace(
            self,
            buffers=dict(self.buffers),
            locals=dict(self.locals),
            fragments=dict(self.fragments),
            indices=self.indices | set(indices),
        )
