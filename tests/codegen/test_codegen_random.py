"""Random kernels, compiled: what the interpreter leaves in memory, to the last bit.

They are made of integers, so that no order of sums matters, and store to and load from the same
buffers in loops inside loops, so that whatever is moved or remembered wrongly shows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import DType, i32, i64, u8
from tests.compiled_kernels import HERE, CompiledKernel

ROWS = 6
COLUMNS: Size = dims.symbol("n")
M: Size = dims.symbol("m")
TYPES = (i32, i64, u8)
SAFE = ("add", "sub", "mul", "min", "max", "xor", "div", "mod", "shr")


class Author:
    """Writes one random kernel."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self.builder = KernelBuilder()
        self.buffers = [Buffer(f"x{k}", t, (ROWS, COLUMNS)) for k, t in enumerate(TYPES)]
        self.rows: list[Size] = [0, 1]
        self.columns: list[Size] = []
        self.locals: list[Local] = []
        self.lane: Size | None = None
        self.written = -1  # the buffer that the open vector loop stores to

    def kernel(self) -> Kernel:
        for _ in range(3):
            self.loop(3)
        symbols = ("n", "m")
        return Kernel(
            "kernel", tuple(self.buffers), len(self.buffers), symbols, self.builder.block()
        )

    # Expressions

    def row(self) -> Size:
        """Often the same one again."""
        pick: Callable[[Sequence[Size]], Size] = self.choice.choice
        if self.choice.random() < 0.7:
            return pick([0, self.rows[-1]])
        size: Size = pick(self.rows) + pick(self.rows) * pick([0, 1, 2]) + pick([0, 1, M])
        return dims.mod(size, ROWS)

    def column(self) -> Size:
        """A column, as it is or wrapped into the buffer."""
        pick: Callable[[Sequence[Size]], Size] = self.choice.choice
        found = pick([*self.columns, *([self.lane] * 2 if self.lane is not None else [])] or [0])
        moved = found * pick([1, 1, 1, 2]) + pick([0, 0, 1, M])
        return found if self.choice.random() < 0.7 else dims.mod(moved, COLUMNS)

    def load(self, dtype: DType) -> Expression:
        options = [b for k, b in enumerate(self.buffers) if b.dtype is dtype and k != self.written]
        if not options:
            return expr.constant(3, dtype)
        guard = None
        if self.choice.random() < 0.2:
            limits: list[Size] = [0, 2, M]
            guard = expr.less(self.row(), self.choice.choice(limits))
        return expr.load(self.choice.choice(options), (self.row(), self.column()), guard)

    def value(self, dtype: DType, depth: int = 3) -> Expression:
        pick = self.choice
        kind = pick.random()
        if depth == 0 or kind < 0.25:
            return self.load(dtype)
        if kind < 0.35:
            return expr.constant(pick.randrange(7), dtype)
        if kind < 0.45:
            other = pick.choice([t for t in TYPES if t is not dtype])
            return expr.convert(self.value(other, depth - 1), dtype)
        if kind < 0.55:
            return expr.convert(expr.index_value(self.column()), dtype)
        if kind < 0.65:
            same = [local for local in self.locals if local.dtype is dtype]
            return pick.choice(same).value if same else self.load(dtype)
        left, right = self.value(dtype, depth - 1), self.value(dtype, depth - 1)
        if kind < 0.75:
            return expr.select(left < right, right, left)
        return expr.binary(pick.choice(SAFE), left, right)

    # Statements

    def loop(self, depth: int) -> None:
        kinds = ["serial", "serial", "unroll", "vector", "vector"]
        kind = self.choice.choice(kinds if self.lane is None else ["serial", "unroll"])
        if kind == "vector":
            self.vector_loop(depth)
        elif kind == "unroll" or self.choice.random() < 0.5:
            self.row_loop(depth, unroll=kind == "unroll")
        else:
            with self.builder.loop(COLUMNS) as j:
                self.columns.append(j)
                self.block(depth - 1)
                self.columns.pop()

    def row_loop(self, depth: int, unroll: bool) -> None:
        extents: list[Size] = [1, 2, 3] if unroll else [1, 3, M]
        extent = self.choice.choice(extents)
        with self.builder.loop(extent, "unroll" if unroll else "serial") as i:
            self.rows.append(i)
            self.block(depth - 1)
            self.rows.pop()

    def vector_loop(self, depth: int) -> None:
        lanes, interleave = self.choice.choice([2, 4, 8, 16]), self.choice.choice([1, 2])
        known, self.locals = self.locals, []
        sums = [local for local in known if self.choice.random() < 0.5]
        self.written = self.choice.randrange(len(self.buffers))
        with self.builder.loop(COLUMNS, "vector", lanes, interleave) as lane:
            self.lane = lane
            self.block(min(depth - 1, 1))
            for local in sums:
                local.accumulate("add", self.value(local.dtype))
            self.lane = None
        self.written = -1
        self.locals = known

    def block(self, depth: int) -> None:
        known = len(self.locals)
        for _ in range(self.choice.randrange(1, 4)):
            self.statement(depth)
        del self.locals[known:]

    def statement(self, depth: int) -> None:
        pick = self.choice.random()
        if depth > 0 and pick < 0.35:
            self.loop(depth)
        elif depth > 0 and pick < 0.45:
            condition = expr.less(self.choice.choice(self.rows), M)
            with self.builder.when(condition if self.choice.random() < 0.7 else self.uniform()):
                self.block(depth - 1)
            if self.choice.random() < 0.5:
                with self.builder.otherwise():
                    self.block(depth - 1)
        elif pick < 0.6:
            self.locals.append(self.builder.define(self.value(self.choice.choice(TYPES))))
        elif pick < 0.75 and self.locals:
            local = self.choice.choice(self.locals)
            if self.choice.random() < 0.5:
                local.set(self.value(local.dtype))
            else:
                local.accumulate(self.choice.choice(["add", "max"]), self.value(local.dtype))
        else:
            self.store()

    def uniform(self) -> Expression:
        """A condition that reads memory, but does not depend on the lane."""
        options = [b for k, b in enumerate(self.buffers) if b.dtype is i64 and k != self.written]
        found = self.choice.choice([*self.columns, 0])
        if not options:
            return expr.less(self.row(), 1)
        return expr.load(self.choice.choice(options), (self.row(), found)) > 1

    def store(self) -> None:
        if self.lane is not None:
            buffer = self.buffers[self.written]
            self.builder.store(buffer, (0, self.lane), self.value(buffer.dtype))
            return
        buffer = self.choice.choice(self.buffers)
        self.builder.store(buffer, (self.row(), self.column()), self.value(buffer.dtype))


@pytest.mark.parametrize("seed", range(60))
def test_a_random_kernel(seed: int) -> None:
    kernel = Author(seed).kernel()
    compiled = {target.name: CompiledKernel(kernel, target) for target in HERE}
    rng = np.random.default_rng(seed)
    for n, m in ((5, 0), (1, 3), (19, 2)):
        arrays = [rng.integers(0, 9, (ROWS, n)).astype(b.dtype.numpy) for b in kernel.buffers]
        symbols = {"n": n, "m": m}
        expected = run_kernel(kernel, arrays, symbols).outputs
        for target, run in compiled.items():
            for buffer, actual, wanted in zip(
                kernel.buffers, run(arrays, symbols).arrays, expected
            ):
                where = f"{buffer.name} for {symbols} on {target}"
                np.testing.assert_array_equal(actual, wanted, where)
