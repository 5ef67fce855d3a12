"""Writes the addresses of a program's values, for the run body."""

from __future__ import annotations

from bessemer.compiler.codegen.body.body_sizes import BodySizes
from bessemer.compiler.codegen.body.data_dependent_outputs import data_dependent_outputs
from bessemer.compiler.codegen.support.workspace import arena_offset
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import Copy, MemoryPlan, Program


class BodyAddresses(BodySizes):
    """A body's lines with sizes and addresses. A value is in the workspace, among the weights, or
    an array of the caller's."""

    def __init__(self, program: Program, plan: MemoryPlan, prefix: str) -> None:
        super().__init__(program, plan, prefix)
        self.given: dict[Value, tuple[str, int]] = {}
        for array, values in (("inputs", program.inputs), ("outputs", program.outputs)):
            for number, value in enumerate(values):
                self.given.setdefault(value, (array, number))
        self.data_dependent = data_dependent_outputs(program, plan)

    def root(self, value: Value) -> Value:
        """The value whose bytes this one shares; itself if there is no other."""
        return self.plan.aliases.get(value, value)

    def address(self, value: Value) -> str:
        """A register with the address of a value. Raises InternalError if the memory plan has no
        place for it."""
        value = self.root(value)
        given = self.given.get(value)
        if given is not None and value not in self.plan.offsets:
            array, number = given
            place = self.let(f"getelementptr ptr, ptr %{array}, i64 {number}")
            return self.let(f"load ptr, ptr {place}")
        if value in self.plan.weight_offsets:
            distance = self.plan.weight_offsets[value]
            return self.let(f"getelementptr i8, ptr %weights, i64 {distance}")
        if value not in self.plan.offsets:
            raise InternalError(f"the memory plan has no place for a value of type {value.type}")
        offset = self.sizes.value(arena_offset(self.plan, value))
        place = self.let(f"getelementptr i8, ptr %workspace, i64 {offset}")
        if value not in self.data_dependent:
            return place
        size = self.sizes.value(value.type.nbytes)
        output = f"ptr %outputs, i64 {self.data_dependent[value]}, i64 {size}"
        return self.let(f"call ptr @bessemer_output_place(ptr %context, {output}, ptr {place})")

    def store_at(self, kind: str, value: str, array: str, number: int) -> None:
        """Stores a value of an LLVM type to an entry of an array of them."""
        place = self.let(f"getelementptr {kind}, ptr {array}, i64 {number}")
        self.put(f"store {kind} {value}, ptr {place}")

    def coincide(self, source: Value, target: Value) -> str:
        """A register that is true if two values are at the same address and have the same size. (An
        empty cache may begin at the address of one that is not empty.)"""
        same = self.let(f"icmp eq ptr {self.address(source)}, {self.address(target)}")
        sizes = source.type.nbytes, target.type.nbytes
        if sizes[0] == sizes[1]:
            return same
        equal = self.let(f"icmp eq i64 {self.sizes.value(sizes[0])}, {self.sizes.value(sizes[1])}")
        return self.let(f"and i1 {same}, {equal}")

    def may_coincide(self, step: Copy) -> bool:
        """Whether the caller may have passed one array for an input and for the output to which it
        is copied."""
        program, pair = self.program, (self.root(step.source), self.root(step.target))
        return any(
            pair == (program.inputs[given], self.root(program.outputs[output]))
            for output, given in program.updates
        )
