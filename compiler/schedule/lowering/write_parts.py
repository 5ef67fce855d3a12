"""Lets kernels store results as a matrix unit reads them: float32 as three bfloat16 parts, where a
separate launch would split them, and other numbers by blocks of channels.

    conv -> f32 -> split -> parts -> conv on tiles
    conv -> parts -> conv on tiles                      and f32 as well if anything else reads it
    conv -> bf16 -> conv on tiles
    conv -> blocks -> conv on tiles                     and epilogues

A launch that splits reads and writes every number once more. If all of a value is stored as vectors
of neighbours, each of these stores becomes three, or four if the float32 numbers are needed, too.

By blocks of channels (matrix_tiles_layout.py) the rows of a tile are neighbouring cache lines, not
as far apart as pixels are. On an Intel processor with AMX products of bfloat16 then took 0.48 to
1.01 of the time (nine shapes, geometric mean 0.84). A launch only for that would cost more than it
gains unless there are many columns.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.program import Alias, Launch, Step
from bessemer.compiler.ir.types import TensorType
from bessemer.compiler.ir.walk_steps import alias_sources, root_of, touched
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering
from bessemer.compiler.schedule.lowering.parts_in_bodies import with_loads, with_stores
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_layout import BlockReader, PartsLayout


def write_parts(
    steps: Sequence[Step], outputs: Sequence[Value], lowering: Lowering
) -> tuple[Step, ...]:
    """The steps, without the splits that the kernels before them can do, and with values by blocks
    of channels where only a matrix unit reads them."""
    if not (lowering.origins.splits or lowering.origins.block_readers):
        return tuple(steps)
    return _Change(steps, outputs, lowering).steps()


class _Change:
    """Changes the steps. `reads` counts how often each value is read, in whatever shape, and
    `readers` are the steps that do, in order. `by_blocks` has what multiplies a value by blocks in
    place of a step, and `moved` the values that a step reads so in its epilogue."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[Value], lowering: Lowering) -> None:
        self.before, self.lowering = steps, lowering
        self.splits = {split.launch: split for split in lowering.origins.splits}
        self.sources = alias_sources(steps)
        self.reads = Counter(map(self.root, outputs))
        self.readers: defaultdict[Value, list[Step]] = defaultdict(list)
        self.by_blocks: dict[Step, Launch] = {}
        self.moved: defaultdict[Step, list[_Place]] = defaultdict(list)
        self.unread: set[Value] = set()
        for step in steps:
            if isinstance(step, Alias):
                continue
            for value in map(self.root, touched(step)[0]):
                self.reads[value] += 1
                self.readers[value].append(step)

    def root(self, value: Value) -> Value:
        """The value as it was stored, of which this one may be a reshape."""
        return root_of(value, self.sources)

    def steps(self) -> tuple[Step, ...]:
        found: list[Step] = []
        for step in self.before:
            if isinstance(step, Launch) and step in self.splits:
                if self._is_split_before(step, found):
                    continue
            elif not isinstance(step, Alias):
                for value in dict.fromkeys(map(self.root, touched(step)[0])):
                    if step is self.readers[value][0]:
                        self._lay_in_blocks(value, found)
            found.append(self._with_moved(step))
        return tuple(
            s for s in found if not isinstance(s, Alias) or self.root(s.target) not in self.unread
        )

    def _is_split_before(self, launch: Launch, steps: list[Step]) -> bool:
        """Lets the kernels before a split do it, if they can; returns whether they do."""
        split = self.splits[launch]
        value = self.root(split.value)
        is_last = self.reads[value] == 1
        if not self._store(_Place(value, split.parts, split.layout, not is_last), steps):
            return False
        self.reads[value] -= 1
        if is_last:
            self.unread.add(value)
        return True

    def _lay_in_blocks(self, value: Value, steps: list[Step]) -> None:
        """Lets the kernels before store a value by blocks, and all its readers read it so, if all
        of them can."""
        readers = self.readers[value]
        layouts = [reader.layout for step in readers if (reader := self._on_tiles(step, value))]
        if not layouts or self.reads[value] > len(readers):
            return
        blocks = Value(TensorType(layouts[0].form.left, layouts[0].shape))
        place = _Place(value, blocks, layouts[0], keep=False)
        if any(layout.channels != place.layout.channels for layout in layouts):
            return
        made = {step: self._reading(step, place) for step in readers}
        if None in made.values() or not self._store(place, steps):
            return
        self.unread.add(value)
        for step, launch in made.items():
            if launch is not None and self._on_tiles(step, value):
                self.by_blocks[step] = launch
            else:
                self.moved[step].append(place)

    def _on_tiles(self, step: Step, value: Value) -> BlockReader | None:
        """How a step reads a value on tiles, if it does."""
        reader = self.lowering.origins.block_readers.get(step) if isinstance(step, Launch) else None
        return reader if reader is not None and self.root(reader.value) is value else None

    def _reading(self, step: Step, place: _Place) -> Launch | None:
        """What a step is if it reads a value by blocks; None if it cannot."""
        reader = self._on_tiles(step, place.value)
        if reader is None:
            return self._loading(step, place)
        made = reader.reading(place.parts)
        # Its epilogue may read the value, too.
        return None if place.value in map(self.root, touched(made)[0]) else made

    def _loading(self, step: Step, place: _Place) -> Launch | None:
        """The same for a step that reads the value in an epilogue."""
        values = [v for v in touched(step)[0] if self.root(v) is place.value]
        if not isinstance(step, Launch) or len(values) > 1:
            return None
        return _with_loads(step, values[0], place, self.lowering)

    def _with_moved(self, step: Step) -> Step:
        """The step, reading by blocks what now lies so."""
        changed = self.by_blocks.get(step, step)
        for place in self.moved[step]:
            found = self._loading(changed, place)
            assert found is not None
            changed = found
        return changed

    def _store(self, place: _Place, steps: list[Step]) -> bool:
        """Changes the kernels that store a value so that they store it there, if they can; returns
        whether they do."""
        changed: dict[int, Launch] = {}
        for number, step in enumerate(steps):
            if isinstance(step, Alias) or place.value not in map(self.root, touched(step)[1]):
                continue
            launch = None
            if isinstance(step, Launch):
                launch = _with_parts(step, place, self.lowering)
            if launch is None:
                return False
            changed[number] = launch
        for number, launch in changed.items():
            steps[number] = launch
        return bool(changed)  # an input is stored by none


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a value's `parts` are stored; with `keep`, besides the value itself."""

    value: Value
    parts: Value
    layout: PartsLayout
    keep: bool


def _with_parts(launch: Launch, place: _Place, lowering: Lowering) -> Launch | None:
    """The launch with a kernel that stores the parts. None if the kernel cannot be changed so."""
    kernel = launch.kernel
    if kernel.has_team:
        return None  # a recurrence: large code, of whose time splitting is nothing
    buffers = dict(zip(launch.values, kernel.buffers, strict=True))
    if len(buffers) < len(launch.values) or place.value in [*buffers][: -kernel.outputs]:
        return None
    parts = Buffer(f"parts{len(buffers)}", place.parts.type.dtype, place.layout.shape)
    body = with_stores(kernel.body, buffers[place.value], parts, place.layout, place.keep)
    if body is None:
        return None
    outputs = {} if place.keep else {place.value: None}
    made = rewritten(launch, body, {**outputs, place.parts: parts}, "parts", lowering)
    return made if place.keep else replace(made, replaceable=())


def _with_loads(launch: Launch, value: Value, place: _Place, lowering: Lowering) -> Launch | None:
    """The launch with a kernel that reads the parts in place of this value. None if the kernel
    cannot be changed so."""
    kernel = launch.kernel
    whole = kernel.buffers[launch.values.index(value)]
    parts = Buffer(whole.name, whole.dtype, (place.parts.type.numel,))
    body = with_loads(kernel.body, whole, parts, place.layout)
    if body is None:
        return None
    values = tuple(place.parts if v is value else v for v in launch.values)
    buffers = tuple(parts if buffer is whole else buffer for buffer in kernel.buffers)
    moved = replace(launch, kernel=replace(kernel, buffers=buffers), values=values)
    made = rewritten(moved, body, {}, "parts", lowering)
    return replace(made, replaceable=tuple(v for v in made.replaceable if v is not value))


def rewritten(
    launch: Launch,
    body: Block,
    outputs: Mapping[Value, Buffer | None],
    name: str,
    lowering: Lowering,
) -> Launch:
    """The launch with another body, which also writes these `outputs`, or no longer those that have
    no buffer. The kernel's name ends with `name`."""
    kernel = launch.kernel
    buffers = dict(zip(launch.values, kernel.buffers, strict=True))
    written = {v: buffers.pop(v) for v in launch.values[-kernel.outputs :]}
    scratch = {v: written.pop(v) for v in launch.scratch}
    made = lowering.launch(
        launch.nodes,
        buffers,
        {v: buffer for v, buffer in {**written, **outputs}.items() if buffer is not None},
        Computation(
            body,
            kernel.operations,
            name=f"{kernel.name}_{name}",
            scratch=scratch,
            members=kernel.members,
            arguments=dict(zip(kernel.symbols, launch.sizes, strict=True)),
        ),
    )
    return replace(made, sources=launch.sources, replaceable=launch.replaceable)
