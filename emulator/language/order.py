"""In which order the blocks of a kernel's flow graph deserve to run, so that diverged threads meet
again.

Threads at the earliest place go first. That makes branches meet as soon as they can only if every
loop's body comes whole before what follows the loop, which the order of LLVM's text does not
promise. A weak topological order does (Bourdoncle, "Efficient chaotic iteration strategies with
widenings"): strong components, each as one run of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.language.syntax import Instruction, Kernel, Symbol


@dataclass(frozen=True)
class Flow:
    """Where blocks start, and where each goes on (places in the instruction list)."""

    starts: tuple[int, ...]
    successors: dict[int, tuple[int, ...]]


def branch_targets(kernel: Kernel, instruction: Instruction) -> tuple[int, ...]:
    """The places a bra or brx.idx can jump to."""
    last = instruction.operands[-1]
    assert isinstance(last, Symbol)
    if instruction.opcode[0] == "brx":
        return tuple(kernel.labels[name] for name in kernel.branch_targets[last.name])
    return (kernel.labels[last.name],)


def flow_of(kernel: Kernel) -> Flow:
    instructions = kernel.instructions
    starts = {0, *kernel.labels.values()}
    for place, one in enumerate(instructions):
        if one.opcode[0] in ("bra", "brx", "ret", "exit", "trap"):
            starts.add(place + 1)
    ordered = sorted(start for start in starts if start < len(instructions))
    successors = {}
    for start, end in zip(ordered, [*ordered[1:], len(instructions)]):
        last = instructions[end - 1]
        found = branch_targets(kernel, last) if last.opcode[0] in ("bra", "brx") else ()
        leaves = last.opcode[0] in ("bra", "brx", "ret", "exit", "trap") and last.guard is None
        after = () if leaves or end >= len(instructions) else (end,)
        successors[start] = (*found, *after)
    return Flow(tuple(ordered), successors)


def priorities(kernel: Kernel) -> list[int]:
    """A number for every instruction: the lower, the earlier its threads should run."""
    if not kernel.instructions:
        return []
    flow = flow_of(kernel)
    order = _weak_order(flow, list(flow.starts), 0)
    ends = dict(zip(flow.starts, [*flow.starts[1:], len(kernel.instructions)]))
    result = [0] * len(kernel.instructions)
    number = 0
    for start in order:
        for place in range(start, ends[start]):
            result[place] = number
            number += 1
    return result


def _weak_order(flow: Flow, nodes: list[int], entry: int) -> list[int]:
    """The nodes in topological order of their strong components, each of these entry
    first and then alike.
    """
    inside = set(nodes)
    result: list[int] = []
    for component in reversed(_components(flow, nodes, inside, entry)):
        if len(component) == 1:
            result.extend(component)
            continue
        members = set(component)
        head = _head(flow, component, members, inside, entry)
        rest = [node for node in component if node != head]
        first = [after for after in flow.successors[head] if after in members and after != head]
        result.append(head)
        result.extend(_weak_order(flow, rest, first[0] if first else rest[0]))
    return result


def _head(flow: Flow, component: list[int], members: set[int], inside: set[int], entry: int) -> int:
    """The block by which the loop is entered."""
    if entry in members:
        return entry
    entered = {
        after for node in inside - members for after in flow.successors[node] if after in members
    }
    return min(entered) if entered else min(component)


def _components(flow: Flow, nodes: list[int], inside: set[int], entry: int) -> list[list[int]]:
    """Strong components (Tarjan), each after all that it leads to; depth first from
    `entry`, without recursion.
    """
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    for root in [entry, *nodes]:
        if root in index or root not in inside:
            continue
        work = [(root, iter(flow.successors[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, after = work[-1]
            for one in after:
                if one not in inside:
                    continue
                if one not in index:
                    index[one] = low[one] = len(index)
                    stack.append(one)
                    on_stack.add(one)
                    work.append((one, iter(flow.successors[one])))
                    break
                if one in on_stack:
                    low[node] = min(low[node], index[one])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    place = stack.index(node)
                    found.append(stack[place:])
                    on_stack.difference_update(stack[place:])
                    del stack[place:]
    return found
