"""The run body: the function that carries out a program's steps, as LLVM IR text.

    i32 PREFIX_body(ptr context, ptr inputs, ptr outputs, ptr dims, ptr weights, ptr workspace,
                    i64 bytes)
    i64 PREFIX_workspace(ptr dims)

Every value's address is the workspace, the weights blob, an input or an output, plus a constant or
an offset computed from the dims. Between two kernels there is nothing but the arguments' stores and
the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.codegen.body.body_sizes import BodySizes
from bessemer.compiler.codegen.body.chain import chain_text
from bessemer.compiler.codegen.body.copies import BLOCK, copy_name, copy_text
from bessemer.compiler.codegen.body.late_outputs import late_outputs
from bessemer.compiler.codegen.body.shares import GRAIN, SHARE, work_of, work_of_copy
from bessemer.compiler.codegen.kernels.finite import not_finite
from bessemer.compiler.codegen.kernels.set_symbols import set_by_steps
from bessemer.compiler.codegen.support.clock import Clocks
from bessemer.compiler.codegen.support.constants import c_string
from bessemer.compiler.codegen.support.workspace import (
    arena_offset,
    early_sizes,
    workspace_text,
)
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.loops import TEAM, Kernel
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


class _Body(BodySizes):
    def __init__(
        self,
        program: Program,
        plan: MemoryPlan,
        prefix: str,
        messages: Mapping[Kernel, Sequence[str]],
        profile: bool,
    ) -> None:
        super().__init__(program, plan, prefix)
        self.messages = messages
        self.chains: list[str] = []
        self.copies_shared = False
        self.given: dict[Value, tuple[str, int]] = {}
        for array, values in (("inputs", program.inputs), ("outputs", program.outputs)):
            for number, value in enumerate(values):
                self.given.setdefault(value, (array, number))
        self.late = late_outputs(program, plan)
        self.clocks = Clocks(profile, self.let, self.put)

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
            root = self._root(value)
            if root in self.plan.offsets or root in self.plan.weight_offsets:
                address = self._address(value)
                place = self.let(f"getelementptr ptr, ptr %outputs, i64 {number}")
                self.put(f"store ptr {address}, ptr {place}")
        self.clocks.end()
        self.put("ret i32 0")

    # Addresses

    def _root(self, value: Value) -> Value:
        return self.plan.aliases.get(value, value)

    def _address(self, value: Value) -> str:
        value = self._root(value)
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
        if value not in self.late:
            return place
        size = self.sizes.value(value.type.nbytes)
        output = f"ptr %outputs, i64 {self.late[value]}, i64 {size}"
        return self.let(f"call ptr @bessemer_late_place(ptr %context, {output}, ptr {place})")

    # Steps

    def _steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.known.clear()
            match step:
                case Launch(unless_in=None):
                    self._launch(step)
                case Launch(unless_in=Value() as source):
                    with self.unless(self._coincide(source, step.values[-1])):
                        self._launch(step)
                case Chain():
                    self._chain(step)
                case BindDims():
                    self._bind(step)
                case Copy():
                    self._copy(step)
                case RequireFinite():
                    self._require_finite(step)
                case Alias():
                    pass
                case Branch():
                    self._branch(step)
                case Repeat():
                    self._repeat(step)

    def _launch(self, step: Launch) -> None:
        kernel = step.kernel
        checks = self.messages.get(kernel, ())
        for number, value in enumerate(step.values):
            self._store_at("ptr", self._address(value), "%buffers", number)
        if checks:
            self._store_at("ptr", "%fault", "%buffers", len(step.values))
            self.put("store i32 0, ptr %fault")
        for number, size in enumerate(step.sizes):
            self._store_at("i64", self.sizes.value(size), "%arguments", number)
        values = dict(zip(kernel.symbols, step.sizes, strict=True))
        extent = self.sizes.value(dims.rename(kernel.parallel_extent, values))
        work = dims.rename(kernel.operations, values)
        start = self.clocks.start()
        if kernel.has_team:
            self._launch_team(step, work)
        elif self._is_serial(extent, whole := work_of(step, self.bound)):
            self.put(f"call void @{kernel.name}(ptr %buffers, ptr %arguments, i64 0, i64 {extent})")
        else:
            shares = self._shares(whole)
            name = self.clocks.share_of(kernel.name)
            self.put(
                f"call void @bessemer_parallel(ptr %context, ptr @{name}, ptr %buffers, "
                f"ptr %arguments, i64 {extent}, i64 {shares})"
            )
        self.clocks.stop(start)
        if checks:
            self._check_fault(step, checks)
        self.read_back(step)

    def _chain(self, step: Chain) -> None:
        """A chain of launches, whose shares are dealt to threads like those of one kernel."""
        if any(self.messages.get(launch.kernel) for launch in step.launches):
            raise InternalError("a kernel of a chain can fail: nothing would tell of it")
        name = f"{self.prefix}_chain{len(self.chains)}"
        self.chains.append(chain_text(step, name))
        inside = {window.value for window in step.windows}
        values = [value for launch in step.launches for value in launch.values]
        for number, value in enumerate((*values, step.memory)):
            if value not in inside:
                self._store_at("ptr", self._address(value), "%buffers", number)
        work = dims.total(work_of(launch, self.bound) for launch in step.launches)
        self.put(
            f"call void @bessemer_parallel(ptr %context, ptr @{name}, ptr %buffers, "
            f"ptr %arguments, i64 {step.shares}, i64 {self._shares(work)})"
        )

    def _launch_team(self, step: Launch, work: Size) -> None:
        kernel = step.kernel
        most = self.sizes.value(dims.minimum(kernel.members, dims.floordiv(work, GRAIN)))
        place = kernel.symbols.index(TEAM)
        name = self.clocks.share_of(kernel.name)
        self.put(
            f"call void @bessemer_join_team(ptr %context, ptr @{name}, ptr %buffers, "
            f"ptr %arguments, i64 {len(step.values) + 1}, i64 {place}, i64 {most})"
        )

    def _store_at(self, kind: str, value: str, array: str, number: int) -> None:
        place = self.let(f"getelementptr {kind}, ptr {array}, i64 {number}")
        self.put(f"store {kind} {value}, ptr {place}")

    def _is_serial(self, extent: str, work: Size) -> bool:
        return extent == "1" or (isinstance(work, int) and work < 2 * SHARE)

    def _shares(self, work: Size) -> str:
        """The number of threads that this much work is enough for."""
        if isinstance(work, int):
            return str(work // SHARE)
        return self.let(f"udiv i64 {self.sizes.value(dims.maximum(work, 1))}, {SHARE}")

    def _check_fault(self, step: Launch, checks: Sequence[str]) -> None:
        fault = self.let("load i32, ptr %fault")
        where = ", ".join(step.sources)
        for number, message in enumerate(checks, 1):
            hit = self.let(f"icmp eq i32 {fault}, {number}")
            text = f"{where}: {message}" if where else message
            self.fail_if(hit, Status.INDEX_OUT_OF_RANGE, text)

    def _bind(self, step: BindDims) -> None:
        source = self._address(step.value)
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

    def _copy(self, step: Copy) -> None:
        start = self.clocks.start()
        if self._root(step.source) is not self._root(step.target):
            if self._may_coincide(step):
                with self.unless(self._coincide(step.source, step.target)):
                    self._copy_bytes(step)
            else:
                self._copy_bytes(step)
        self.clocks.stop(start)

    def _copy_bytes(self, step: Copy) -> None:
        source, target = self._address(step.source), self._address(step.target)
        nbytes = step.source.type.nbytes
        size, work = self.sizes.value(nbytes), work_of_copy(nbytes)
        if self._is_serial("", work):
            arrays = f"ptr {target}, ptr {source}, i64 {size}"
            self.put(f"call void @llvm.memcpy.p0.p0.i64({arrays}, i1 false)")
            return
        self._store_at("ptr", source, "%buffers", 0)
        self._store_at("ptr", target, "%buffers", 1)
        self._store_at("i64", size, "%arguments", 0)
        blocks = self.sizes.value(dims.floordiv(nbytes + BLOCK - 1, BLOCK))
        self.copies_shared = True
        name = self.clocks.share_of(copy_name(self.prefix))
        self.put(
            f"call void @bessemer_parallel(ptr %context, ptr @{name}, ptr %buffers, "
            f"ptr %arguments, i64 {blocks}, i64 {self._shares(work)})"
        )

    def _coincide(self, source: Value, target: Value) -> str:
        """Whether two values are at the same address and have the same size. (An empty cache may
        begin at the address of one that is not empty.)"""
        same = self.let(f"icmp eq ptr {self._address(source)}, {self._address(target)}")
        sizes = source.type.nbytes, target.type.nbytes
        if sizes[0] == sizes[1]:
            return same
        equal = self.let(f"icmp eq i64 {self.sizes.value(sizes[0])}, {self.sizes.value(sizes[1])}")
        return self.let(f"and i1 {same}, {equal}")

    def _may_coincide(self, step: Copy) -> bool:
        """Whether the caller may have passed one array for an input and for the output to which it
        is copied."""
        program, pair = self.program, (self._root(step.source), self._root(step.target))
        return any(
            pair == (program.inputs[given], self._root(program.outputs[output]))
            for output, given in program.updates
        )

    def _require_finite(self, step: RequireFinite) -> None:
        bad = not_finite(self.let, step.value.type.dtype, self._address(step.value))
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
        return self.let(f"icmp ne i8 {self.let(f'load i8, ptr {self._address(value)}')}, 0")

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
            trips = self.let(f"load i64, ptr {self._address(step.trips)}")
            going = self.let(f"icmp slt i64 {count}, {trips}")
        if step.condition is not None:
            going = self.let(f"and i1 {going}, {self._truth(step.condition)}")
        self.put(f"br i1 {going}, label %{body}, label %{after}")
        self.begin(body)
        self.put(f"store i64 {count}, ptr {self._address(step.iteration)}")
        self.repeats += 1
        self._steps(step.body)
        self.repeats -= 1
        self.put(f"store i64 {self.let(f'add i64 {count}, 1')}, ptr {counter}")
        self.put(f"br label %{test}")
        self.begin(after)
        if step.count:
            self.set_symbol(step.count, self.let(f"load i64, ptr {counter}"))
            self.note_bound((step.count,))
