"""Writes loops and branches in single-assignment form: values that their bodies change become
phis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bessemer.compiler.codegen.arithmetic import compare
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.values import Value
from bessemer.compiler.codegen.writer import Lines, Scope
from bessemer.compiler.ir.types import i64


@dataclass(frozen=True)
class Range:
    """begin, begin + step, ... below `end`; the distance is a multiple of the step. If it is
    `opaque`, LLVM does not see how the index grows (see `KernelState.hidden`)."""

    begin: Value
    end: Value
    step: int = 1
    opaque: bool = True

    @property
    def trips(self) -> int | None:
        """The number of iterations; None if it is not known."""
        if isinstance(self.begin.number, int) and isinstance(self.end.number, int):
            return max(0, -(-(self.end.number - self.begin.number) // self.step))
        return None


def counted_loop(
    state: KernelState,
    over: Range,
    carried: Iterable[str],
    writes: frozenset[str],
    body: Callable[[Value], None],
) -> None:
    """Runs `body(index)` for the range. `carried` names the locals that the body changes."""
    if over.trips == 0:
        return
    if over.trips == 1:
        with local_names(state):
            body(over.begin)
        return
    w = state.writer
    scope = Scope("loop", writes, runs=over.trips is not None)
    names = list(carried)
    initial = {name: state.locals[name] for name in names}
    enter, again, leave = w.label("enter"), w.label("loop"), w.label("done")
    # A range that may be empty is skipped by a branch around the whole loop.
    if over.trips is None:
        w.branch(compare(w, "slt", over.begin, over.end), enter, leave)
    else:
        w.jump(enter)
    skipped = w.block
    w.begin(enter)
    w.place().append(scope.before)
    w.jump(again)
    latch = _iterate(state, over, initial, scope, body, (enter, again, leave))
    w.begin(leave)
    if over.trips is None:
        merge(state, names, [(initial, skipped), (dict(state.locals), latch)])
    else:
        lower_levels(state, names)


def _iterate(
    state: KernelState,
    over: Range,
    initial: Mapping[str, Value],
    scope: Scope,
    body: Callable[[Value], None],
    labels: tuple[str, str, str],
) -> str:
    """Writes the iterations of a range that is not empty; returns the block in which they end.

    `initial` are the carried locals before the loop; `labels` are the blocks before it, at its head
    and after it.
    """
    w, (enter, again, leave) = state.writer, labels
    # The phis are at the head of the loop, but the values from the body are known only after it.
    w.begin(again)
    phis = w.place()
    index = Value(w.name(), i64, 1, w.depth + 1)
    entered = _phis(state, initial, w.depth + 1)
    with w.scope(scope):
        state.locals.update(entered)
        with local_names(state):
            body(index)
        following = w.here(f"add nuw nsw i64 {index.text}, {over.step}", i64)
        following = state.hidden(following) if over.opaque else following
        more = w.here(f"icmp slt i64 {following.text}, {over.end.text}", i64)
        w.line(f"br i1 {more.text}, label %{again}, label %{leave}")
    phis.append(
        f"  {index.text} = phi i64 [ {over.begin.text}, %{enter} ], "
        f"[ {following.text}, %{w.block} ]"
    )
    _fill(phis, entered, [(initial, enter), (state.locals, w.block)])
    return w.block


def while_loop(
    state: KernelState,
    carried: Iterable[str],
    writes: frozenset[str],
    condition: Callable[[], Value],
    body: Callable[[], None],
) -> None:
    """Runs the body as long as the condition is true."""
    w = state.writer
    # A branch, not a loop: nothing that could fail may be moved in front of the first test.
    scope = Scope("branch", writes)
    names = list(carried)
    initial = {name: state.locals[name] for name in names}
    test, inside, leave = w.label("while"), w.label("do"), w.label("done")
    w.place().append(scope.before)
    w.jump(test)
    before = w.block
    w.begin(test)
    phis = w.place()
    entered = _phis(state, initial, w.depth + 1)
    with w.scope(scope):
        state.locals.update(entered)
        state.values.clear()
        w.branch(condition(), inside, leave)
        w.begin(inside)
        with local_names(state):
            body()
        w.jump(test)
    _fill(phis, entered, [(initial, before), (state.locals, w.block)])
    w.begin(leave)
    state.locals.update(entered)
    lower_levels(state, names)


def branch(
    state: KernelState,
    condition: Value,
    carried: Iterable[str],
    bodies: tuple[tuple[Callable[[], None], frozenset[str]], ...],
) -> None:
    """Runs the first body if the condition is true, else the second, if there is one."""
    w = state.writer
    names = list(carried)
    initial = {name: state.locals[name] for name in names}
    scopes = [Scope("branch", writes) for _, writes in bodies]
    for scope in scopes:
        w.place().append(scope.before)
    labels = [w.label("then"), w.label("else")][: len(bodies)]
    leave = w.label("endif")
    ends: list[tuple[Mapping[str, Value], str]] = []
    w.branch(condition, labels[0], labels[1] if len(bodies) > 1 else leave)
    if len(bodies) == 1:
        ends.append((initial, w.block))
    for label, scope, (body, _) in zip(labels, scopes, bodies):
        w.begin(label)
        state.locals.update(initial)
        with w.scope(scope), local_names(state):
            body()
        w.jump(leave)
        ends.append((dict(state.locals), w.block))
    w.begin(leave)
    merge(state, names, ends)


@contextmanager
def local_names(state: KernelState) -> Iterator[None]:
    """Forgets what was declared inside of the `with` at its end, but keeps changes of outer
    locals."""
    tables: tuple[dict[str, Any], ...] = (state.locals, state.fragments, state.arrays)
    before = [set(table) for table in tables]
    parameters = {buffer.name for buffer in state.kernel.buffers}
    state.values.clear()
    yield
    state.values.clear()
    for table, names in zip(tables, before):
        for name in set(table) - names - (parameters if table is state.arrays else set()):
            del table[name]


def merge(
    state: KernelState, names: Iterable[str], ends: list[tuple[Mapping[str, Value], str]]
) -> None:
    """Sets locals, at the start of a block, to the values that they have at the ends of the blocks
    before."""
    w = state.writer
    for name in names:
        values = [values[name] for values, _ in ends]
        if all(value.text == values[0].text for value in values):
            state.locals[name] = values[0]
            continue
        sources = ", ".join(f"[ {values[name].text}, %{block} ]" for values, block in ends)
        state.locals[name] = w.here(
            f"phi {values[0].type} {sources}", values[0].kind, values[0].lanes
        )


def lower_levels(state: KernelState, names: Iterable[str]) -> None:
    """After a loop, marks the values of these locals as known in the scope around it."""
    for name in names:
        value = state.locals[name]
        if value.level > state.writer.depth:
            state.locals[name] = value._replace(level=state.writer.depth)


def _phis(state: KernelState, initial: Mapping[str, Value], level: int) -> dict[str, Value]:
    return {
        name: Value(state.writer.name(), value.kind, value.lanes, level)
        for name, value in initial.items()
    }


def _fill(
    phis: Lines, entered: Mapping[str, Value], ends: list[tuple[Mapping[str, Value], str]]
) -> None:
    for name, phi in entered.items():
        sources = ", ".join(f"[ {values[name].text}, %{block} ]" for values, block in ends)
        phis.append(f"  {phi.text} = phi {phi.type} {sources}")
