"""Writes lines of LLVM IR, each register once."""

from __future__ import annotations


class BodyWriter:
    """The lines so far. `known` are registers of computations that are written once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0
        self.known: dict[str, str] = {}

    def let(self, text: str) -> str:
        """A new register with this value."""
        self.count += 1
        self.lines.append(f"  %t{self.count} = {text}")
        return f"%t{self.count}"

    def pure(self, text: str) -> str:
        """The register of a computation on sizes; within a step it is written once. Over a call,
        reading and adding up again costs less than keeping."""
        found = self.known.get(text)
        if found is None:
            found = self.known[text] = self.let(text)
        return found

    def put(self, text: str) -> None:
        """An instruction without a value."""
        self.lines.append(f"  {text}")

    def label(self, stem: str) -> str:
        """A new label."""
        self.count += 1
        return f"{stem}{self.count}"

    def begin(self, label: str) -> None:
        """Begins a block."""
        self.known.clear()
        self.lines.append(f"{label}:")
