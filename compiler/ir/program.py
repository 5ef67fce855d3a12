"""A program: what the run body does, step by step, and where everything lies in memory.

Groups of graph nodes have become kernels; the steps launch them on values. Values are the graph's;
where their bytes are is the plan's business (memory_plan/plan_memory.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias, Union

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.evaluate import define, evaluate_named, expanded
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import Array, TensorType
from bessemer.compiler.options import Choice


@dataclass(frozen=True, eq=False)
class Launch:
    """Runs a kernel: `values` become its buffers, `sizes` its symbols, in order.

    `scratch` lists the values that live only during this launch. `sources` are the user's nodes.
    `replaceable` are the inputs that the (only) output may overwrite: the kernel reads an element
    of them just where, and just before, it writes one. The launch does nothing where the output
    lies in the memory of the input `unless_in`. `nodes` are the graph's nodes that it computes, or
    helps to compute: only the profile asks.
    """

    kernel: Kernel
    values: tuple[Value, ...]
    sizes: tuple[Size, ...]
    sources: tuple[str, ...] = ()
    scratch: tuple[Value, ...] = ()
    replaceable: tuple[Value, ...] = ()
    unless_in: Value | None = None
    nodes: tuple[Node, ...] = ()


def working_memory(buffers: Iterable[Buffer]) -> dict[Value, Buffer]:
    """Values for a launch's `scratch`, one for each of a kernel's buffers."""
    return {Value(TensorType(buffer.dtype, buffer.shape)): buffer for buffer in buffers}


@dataclass(frozen=True, eq=False)
class Window:
    """Where a value lies that only the launches of a chain need: `size` bytes, which are moved over
    it. In round t they hold the value's bytes from `begins[t]` on, of which the first `kept[t]` are
    those of the round before."""

    value: Value
    size: int
    begins: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain of launches that are run in rounds, some items of each.

    In round t launch j has to be done up to item `items[t][j][1]`. It begins where it has got to;
    who begins with round t, at `items[t][j][0]`. The rounds are divided into `shares`, which may
    run at the same time; each has windows of its own, one after the other in `memory`.
    """

    launches: tuple[Launch, ...]
    items: tuple[tuple[tuple[int, int], ...], ...]
    windows: tuple[Window, ...]
    memory: Value
    shares: int

    @property
    def values(self) -> tuple[Value, ...]:
        """What lies in memory as a whole while the chain runs."""
        inside = {window.value for window in self.windows}
        touched = (value for launch in self.launches for value in launch.values)
        return (*(value for value in touched if value not in inside), self.memory)


@dataclass(frozen=True, eq=False)
class BindDims:
    """Reads an i64 vector and gives dimension symbols its entries; the run fails where one is
    negative. A symbol named "" is skipped."""

    value: Value
    symbols: tuple[str, ...]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Copy:
    """Copies a whole tensor; both values have the same type."""

    source: Value
    target: Value


@dataclass(frozen=True, eq=False)
class Alias:
    """`target` is `source` under another shape: the same bytes, no code."""

    source: Value
    target: Value


@dataclass(frozen=True, eq=False)
class RequireFinite:
    """The run fails here where a float, one number, is infinite or NaN; `name` is for the message.

    Nothing that takes the place of an input has been written by then."""

    value: Value
    name: str


@dataclass(frozen=True, eq=False)
class Branch:
    """Runs one of two step lists, on a bool scalar."""

    condition: Value
    then: Steps
    otherwise: Steps
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Repeat:
    """A loop: while `condition` holds (if given) and fewer than `trips` (an i64 scalar, if given)
    iterations have run. `iteration` is an i64 scalar value set before each; the number of
    iterations made is given to the symbol `count` at the end, if it has a name."""

    trips: Value | None
    condition: Value | None
    iteration: Value
    body: Steps
    count: str = ""
    sources: tuple[str, ...] = ()


Step: TypeAlias = Union[Launch, Chain, BindDims, Copy, Alias, RequireFinite, Branch, Repeat]
Steps: TypeAlias = tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Decision:
    """What was chosen for a node whose kernels' form is a matter of speed only, and what else could
    have been. Nodes of one signature are decided alike."""

    node: Node
    signature: str
    choice: Choice
    others: tuple[Choice, ...] = ()


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant in the weights blob: the elements of `source` in the order that `arrange` gives
    them, which may be a view. It is laid out where it is wanted: copies would take memory."""

    source: Array
    arrange: Callable[[Array], Array] | None = None

    def array(self) -> Array:
        return self.source if self.arrange is None else self.arrange(self.source)


@dataclass(frozen=True)
class Room:
    """The arrays of an input and of the output that continues it, at positions `given` and
    `output`, have as many places along `axis` as `symbol` says; `before` and `after` are in use."""

    output: int
    given: int
    axis: int
    symbol: str
    before: Size
    after: Size


@dataclass(frozen=True, eq=False)
class Program:
    """A whole model, ready for memory planning and code generation.

    `symbols`: input symbols first, then the data-dependent ones (`input_symbols` counts the first).
    `weights`: the constants in the weights blob. `capacities`: the largest number of elements of
    values whose shape is only known after they are computed. `derived` symbols are
    computed from `symbols` and from derived ones before them. `decisions` are for the tuner.
    `required` are sizes that are negative where an input is too small, each with the nodes that
    want it: such a run ends with an error.
    `updates` are as in the graph: such an output is written after the last reading of its input, or
    element by element while it is read, so that both may be the same memory.
    `rooms` are the inputs and outputs whose arrays have more places than are in use.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...]
    symbols: tuple[str, ...]
    input_symbols: int
    weights: Mapping[Value, Weight]
    steps: Steps
    capacities: Mapping[Value, Size] = field(default_factory=dict)
    derived: Mapping[str, Size] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    updates: tuple[tuple[int, int], ...] = ()
    required: Mapping[Size, str] = field(default_factory=dict)
    rooms: tuple[Room, ...] = ()

    def expanded(self, size: Size) -> Size:
        """A size in terms of `symbols` only."""
        return dims.rename(size, self._definitions)

    @cached_property
    def _definitions(self) -> dict[str, Size]:
        """What `derived` names, in terms of `symbols` only."""
        return expanded(self.derived)


@dataclass(frozen=True, eq=False)
class MemoryPlan:
    """Byte offsets in the workspace of all values that are neither inputs, outputs nor weights.

    `offsets` may hold symbols (evaluated in the run body); `size` is the workspace's size. All in
    bytes, multiples of 64. `lower_bound` is the largest sum of bytes alive at one step.
    Values absent from `offsets` are inputs, outputs or weights. `aliases` maps values to those
    whose bytes they share. The arena is a row of parts, each of one kind of size; `ends`
    are where they end, in the order in which their symbols get values while the model runs. The
    offset of a value with `parts` (k, n) is n times `units[k]` from the start of part k.
    `definitions` are names in these sizes that the run computes once the inputs' shapes are known,
    in this order.
    """

    offsets: Mapping[Value, Size]
    size: Size
    lower_bound: Size
    weight_offsets: Mapping[Value, int]
    weights_size: int
    aliases: Mapping[Value, Value] = field(default_factory=dict)
    ends: tuple[Size, ...] = ()
    units: tuple[Size, ...] = ()
    parts: Mapping[Value, tuple[int, int]] = field(default_factory=dict)
    definitions: Mapping[str, Size] = field(default_factory=dict)

    def arena_bytes(self, program: Program, sizes: Mapping[str, int]) -> int:
        """The workspace's size for sizes of all of the program's symbols."""
        return evaluate_named(self.size, define(sizes, {**program.derived, **self.definitions}))
