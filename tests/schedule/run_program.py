"""Runs a program step by step, kernels in the loop interpreter: what machine code must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import SetDim
from bessemer.compiler.ir.program import (
    Alias,
    BindDims,
    Branch,
    Copy,
    Launch,
    Program,
    Repeat,
    Step,
)
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ir.walk_loops import walk


class ProgramRun:
    """The values and symbols of one run."""

    def __init__(self, program: Program, symbols: Mapping[str, int]) -> None:
        self.program = program
        self.symbols = dict(symbols)
        self.memory = {value: weight.array() for value, weight in program.weights.items()}

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs."""
        for value, array in zip(self.program.inputs, inputs, strict=True):
            self.memory[value] = array
        self._steps(self.program.steps)
        return [self._shaped(value) for value in self.program.outputs]

    def _number(self, size: Size) -> int:
        return evaluate_named(size, self.symbols)

    def _shaped(self, value: Value) -> Array:
        shape = [self._number(size) for size in value.type.shape]
        count = int(np.prod(shape, dtype=np.int64))
        return self.memory[value].reshape(-1)[:count].reshape(shape)

    def _flat(self, value: Value) -> Array:
        if value not in self.memory:
            count = self._number(self.program.capacities.get(value, value.type.numel))
            self.memory[value] = np.zeros(count, value.type.dtype.numpy)
        return self.memory[value].reshape(-1)

    def _steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Launch():
                    self._launch(step)
                case BindDims(value, names):
                    for name, number in zip(names, self._flat(value).tolist(), strict=True):
                        self.symbols[name] = number
                case Copy(source, target):
                    self.memory[target] = self._flat(source).copy()
                case Alias(source, target):
                    self.memory[target] = self._flat(source)
                case Branch():
                    taken = step.then if self._flat(step.condition)[0] else step.otherwise
                    self._steps(taken)
                case Repeat():
                    self._repeat(step)

    def _repeat(self, step: Repeat) -> None:
        count = 0
        while (step.trips is None or count < self._flat(step.trips)[0]) and (
            step.condition is None or bool(self._flat(step.condition)[0])
        ):
            self.memory[step.iteration] = np.array([count], dtype=np.int64)
            self._steps(step.body)
            count += 1
        if step.count:
            self.symbols[step.count] = count

    def _launch(self, step: Launch) -> None:
        kernel = step.kernel
        set_here = {s.symbol for s in walk(kernel.body) if isinstance(s, SetDim)}
        given = {
            name: self._number(size)
            for name, size in zip(kernel.symbols, step.sizes, strict=True)
            if name not in set_here
        }
        given |= dict.fromkeys(set_here, 1 << 20)
        written = step.values[len(step.values) - kernel.outputs :]
        arrays = [self._flat(value) for value in step.values if value not in written]
        arrays += [self._flat(value) for value in written] if not set_here else []
        result = run_kernel(kernel, arrays, given)
        if result.failures:
            raise InternalError("; ".join(result.failures))
        for value, array in zip(written, result.outputs, strict=True):
            self.memory[value] = array.reshape(-1)
        for name in set_here:
            self.symbols[name] = result.symbols[name]
