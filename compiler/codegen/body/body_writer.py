"""Writes lines of LLVM IR, each register once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BodyWriter:
    """The lines so far. `known` are the registers of computations, each of which is written
    once."""

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
        """The register of a computation on sizes, which is written once within a step. It is not
        kept across calls: to load and add again costs less than keeping a register."""
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

    @contextmanager
    def unless(self, condition: str) -> Iterator[None]:
        """What is written inside of the `with` runs if the condition is false."""
        otherwise, after = self.label("otherwise"), self.label("after")
        self.put(f"br i1 {condition}, label %{after}, label %{otherwise}")
        self.begin(otherwise)
        yield
        self.put(f"br label %{after}")
        self.begin(after)
