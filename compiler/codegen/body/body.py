"""The run body: the function that carries out a program's steps, as LLVM IR text.

    i32 PREFIX_body(ptr context, ptr inputs, ptr outputs, ptr dims, ptr weights, ptr workspace,
                    i64 bytes)
    i64 PREFIX_workspace(ptr dims)

Every value's address is the workspace, the weights blob, an input or an output, plus a constant or
an offset computed from the dims (body_addresses.py). Between two kernels there is nothing but the
arguments' stores and the call (body_launches.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.codegen.body.body_launches import BodyLaunches
from bessemer.compiler.codegen.body.copies import copy_text
from bessemer.compiler.codegen.kernels.finite import not_finite
from bessemer.compiler.codegen.kernels.set_symbols import set_by_steps
from bessemer.compiler.codegen.support.constants import c_string
from bessemer.compiler.codegen.support.workspace import (
    early_sizes,
    workspace_text,
)
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.program import (
    Alias,
    BindDims,
    Branch,
    Chain,
    Copy,
    Launch,
    MemoryPlan,
    Program,
    Repeat,
    RequireFinite,
    Step,
)
from bessemer.compiler.ir.walk_steps import timed_steps
from bessemer.runtime.artifact import Status

PART = 64
"""Steps in one function: the time that LLVM takes grows faster than the square of its length."""

_PARAMETERS = (
    "ptr %context, ptr %inputs, ptr %outputs, ptr %dims, ptr %weights, ptr %workspace, i64 %bytes"
)
_LOCALS = "ptr %buffers, ptr %arguments, ptr %fault, ptr %derived"


def body_text(
    program: Program,
    plan: MemoryPlan,
    prefix: str,
    messages: Mapping[Kernel, Sequence[str]],
    profile: bool = False,
) -> str:
    """LLVM IR of the body and of the workspace function.

    `messages` are those of each kernel's checks, in the order of their numbers; kernels without
    checks are not listed. With `profile`, the body measures the time of every launch and copy (see
    clock.py).
    """
    # A body refers to itself, and so lives until garbage is collected: without the weights.
    return _Body(replace(program, weights={}), plan, prefix, messages, profile).text()


class _Body(BodyLaunches):
    def text(self) -> str:
        self._enter()
        steps = self.program.steps
        for start in range(0, len(steps), PART):
            if start:
                self._go_on_elsewhere(start // PART)
            self._steps(steps[start : start + PART])
        self._leave()
        body = "\n".join(self.lines)
        strings = "".join(c_string(name, text) for text, name in self.strings.items())
        clocks = self.clocks.text(self.prefix, len(self.places))
        return (
            f"{strings}{clocks}define internal i32 @{self.prefix}_body({_PARAMETERS}) nounwind {{\n"
            f"{body}\n}}\n{workspace_text(self.program, self.plan, self.prefix)}"
            + "".join(self.chains)
            + (copy_text(self.prefix) if self.copies_shared else "")
        )

    # Start and end

    def _enter(self) -> None:
        launches = [s for s in timed_steps(self.program.steps) if isinstance(s, Launch)]
        counts = [len(s.values) for s in launches]
        for chain in (step for step in self.program.steps if isinstance(step, Chain)):
            counts.append(sum(len(launch.values) for launch in chain.launches))
        width = max(counts, default=0) + 2
        depth = max([len(s.sizes) for s in launches], default=0) + 1
        self.begin("entry")
        self.put(f"%buffers = alloca [{width} x ptr], align 16")
        self.put(f"%arguments = alloca [{depth} x i64], align 16")
        self.put("%fault = alloca i32, align 4")
        self.put(f"%derived = alloca [{len(self.derived)} x i64], align 16")
        self.clocks.begin()
        self.bound = set(early_sizes(self.program, self.plan))
        if self.bound:
            places = f"call i1 @{self.prefix}_places(ptr %dims, ptr %derived)"
            self.overflows.append(self.let(places))
        self.note_bound(self.program.symbols[: self.program.input_symbols])

    def _go_on_elsewhere(self, part: int) -> None:
        """Continues the body in another function, which is called at the end of this one."""
        name, parameters = f"{self.prefix}_body{part}", f"{_PARAMETERS}, {_LOCALS}"
        self.put(f"ret i32 {self.let(f'call i32 @{name}({parameters})')}")
        self.lines += ["}", f"define internal i32 @{name}({parameters}) noinline nounwind {{"]
        self.begin(self.label("part"))

    def _leave(self) -> None:
        for number, value in enumerate(self.program.outputs):
            root = self.root(value)
            if root in self.plan.offsets or root in self.plan.weight_offsets:
                address = self.address(value)
                place = self.let(f"getelementptr ptr, ptr %outputs, i64 {number}")
                self.put(f"store ptr {address}, ptr {place}")
        self.clocks.end()
        self.put("ret i32 0")

    # Steps

    def _steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.known.clear()
            match step:
                case Launch(unless_in=None):
                    self.launch(step)
                case Launch(unless_in=Value() as source):
                    with self.unless(self.coincide(source, step.values[-1])):
                        self.launch(step)
                case Chain():
                    self.chain(step)
                case BindDims():
                    self._bind(step)
                case Copy():
                    self.copy(step)
                case RequireFinite():
                    self._require_finite(step)
                case Alias():
                    pass
                case Branch():
                    self._branch(step)
                case Repeat():
                    self._repeat(step)

    def _bind(self, step: BindDims) -> None:
        source = self.address(step.value)
        where = ", ".join(step.sources)
        for number, name in enumerate(step.symbols):
            if not name:
                continue
            place = self.let(f"getelementptr i64, ptr {source}, i64 {number}")
            value = self.let(f"load i64, ptr {place}")
            negative = self.let(f"icmp slt i64 {value}, 0")
            # A check's source says what must hold (see equal_sizes.py of the ONNX reader).
            wrong = "the sizes contradict it" if name.startswith("check") else "a size is negative"
            self.fail_if(negative, Status.SHAPE_MISMATCH, f"{where}: {wrong}")
            self.set_symbol(name, value)
        self.note_bound(step.symbols)

    def _require_finite(self, step: RequireFinite) -> None:
        bad = not_finite(self.let, step.value.type.dtype, self.address(step.value))
        self.fail_if(bad, Status.NOT_FINITE, f"{step.name} is not finite: nothing was updated")

    def _branch(self, step: Branch) -> None:
        condition = self._truth(step.condition)
        then, otherwise, after = self.label("then"), self.label("else"), self.label("after")
        self.put(f"br i1 {condition}, label %{then}, label %{otherwise}")
        # Sizes that one branch binds and checks are not bound and checked in the other.
        before = self.known_now()
        sets = [set_by_steps(step.then), set_by_steps(step.otherwise)]
        for label, steps, others in (
            (then, step.then, sets[1] - sets[0]),
            (otherwise, step.otherwise, sets[0] - sets[1]),
        ):
            self.forget_back_to(before)
            self.begin(label)
            self.note_absent(others)
            self._steps(steps)
            self.put(f"br label %{after}")
        self.begin(after)

    def _truth(self, value: Value) -> str:
        return self.let(f"icmp ne i8 {self.let(f'load i8, ptr {self.address(value)}')}, 0")

    def _repeat(self, step: Repeat) -> None:
        before = self.known_now()
        self.note_absent(set_by_steps(step.body))  # there may be no iteration
        self.forget_back_to(before)
        counter = self.let("alloca i64, align 8")
        self.put(f"store i64 0, ptr {counter}")
        test, body, after = self.label("test"), self.label("loop"), self.label("after")
        self.put(f"br label %{test}")
        self.begin(test)
        count = self.let(f"load i64, ptr {counter}")
        going = "true"
        if step.trips is not None:
            trips = self.let(f"load i64, ptr {self.address(step.trips)}")
            going = self.let(f"icmp slt i64 {count}, {trips}")
        if step.condition is not None:
            going = self.let(f"and i1 {going}, {self._truth(step.condition)}")
        self.put(f"br i1 {going}, label %{body}, label %{after}")
        self.begin(body)
        self.put(f"store i64 {count}, ptr {self.address(step.iteration)}")
        self.repeats += 1
        self._steps(step.body)
        self.repeats -= 1
        self.put(f"store i64 {self.let(f'add i64 {count}, 1')}, ptr {counter}")
        self.put(f"br label %{test}")
        self.begin(after)
        if step.count:
            self.set_symbol(step.count, self.let(f"load i64, ptr {counter}"))
            self.note_bound((step.count,))
