"""Times, verifies and dumps the result of every step of a compilation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.text.text_graph import print_graph
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.verifier.verify_graph import verify_graph
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.pass_order import Pass

_T = TypeVar("_T")


def nothing(_: object) -> None:
    """A hook that does nothing."""


class StepLog:
    """Seconds by step, and the numbered texts of steps in `folder`, unless that is None.

    `begins` is called with the name of each step before it runs. Raises CompileError where nothing
    can be written to the folder.
    """

    def __init__(
        self, folder: Path | None, verify: bool, begins: Callable[[str], None] = nothing
    ) -> None:
        self.begins = begins
        self.folder = folder
        self.verify = verify
        self.seconds: dict[str, float] = {}
        self.number = 0
        self.before = ""
        if folder is not None:
            with _written(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def run(self, step: Pass, graph: Graph) -> Graph:
        name = step.__name__
        result = self.timed(name, lambda: step(graph))
        if self.verify:
            verify_graph(result)
        self.graph(name, result)
        return result

    def timed(self, name: str, action: Callable[[], _T]) -> _T:
        self.begins(name)
        start = time.perf_counter()
        result = action()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    def graph(self, name: str, graph: Graph) -> None:
        if self.folder is None:
            return
        text = print_graph(graph)
        self.text(f"{name}.txt", "(unchanged)\n" if text == self.before else text)
        self.before = text

    def kernels(self, kernels: list[Kernel]) -> None:
        if self.verify:
            for kernel in kernels:
                verify_kernel(kernel)
        if self.folder is not None:
            self.text("kernels.txt", "\n".join(print_kernel(kernel) for kernel in kernels))

    def text(self, name: str, text: str) -> None:
        if self.folder is not None:
            with _written(self.folder):
                (self.folder / f"{self.number:02d}-{name}").write_text(text)
            self.number += 1


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CompileError(f"Cannot write dumps to {folder}: {error.strerror}") from None
