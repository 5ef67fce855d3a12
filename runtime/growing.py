"""Runs models whose outputs continue inputs, behind these where both are parts of one array.

    past, present = cache[:, :, :n], cache[:, :, : n + m]      the run writes m places
    model.run({"past": past, ...}, out={"present": present})

The code takes where an array begins and how many places it has, used or not: NumPy's views say
both. What comes from elsewhere is copied to where the output is going to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bessemer.runtime.argument_order import Inputs, Outputs, outputs_in_order
from bessemer.runtime.arrays import (
    Array,
    address,
    are_apart,
    check_apart,
    check_output,
    extent,
    first_places,
    places_along,
)
from bessemer.runtime.entry import Plan, Run
from bessemer.runtime.errors import InputError
from bessemer.runtime.runner import Runner


class GrowingRunner(Runner):
    """The runner of a model with `signature.rooms`."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        signature = self.native.signature
        self._rooms = signature.rooms
        self._by_output = {room.output: room for room in signature.rooms}
        self._symbols = {room.symbol: signature.symbols.index(room.symbol) for room in self._rooms}

    def entry(self, documentation: str) -> Run | None:
        """None: the shapes of a decoder's step are never those of the last one."""
        return None

    def run(self, inputs: Inputs, out: Outputs | None = None) -> list[Array]:
        """As CompiledModel.run."""
        arrays, infos = self._arrays(inputs), self.native.signature.outputs
        plan = self._plan_of(arrays)
        given = outputs_in_order(infos, out)
        sizes = [*plan.symbols]
        for symbol, count in self._places(given, plan).items():
            sizes[self._symbols[symbol]] = count
        outputs = [
            self._made(index, plan, sizes)
            if array is None or self._data_dependent[index]
            else array
            for index, array in enumerate(given)
        ]
        sources, targets = _begins(arrays), _begins(outputs)
        moved = [
            room
            for room in self._rooms
            if sources[room.given] != targets[room.output]
            or not _lie_alike(arrays[room.given], outputs[room.output])
        ]
        if out is not None:
            self._check_apart(arrays, given, {room.given for room in moved})
        for room in moved:
            past = arrays[room.given]
            first_places(outputs[room.output], room.axis, past.shape[room.axis])[...] = past
        for room in self._rooms:
            sources[room.given] = targets[room.output]
        return self._called(sources, targets, sizes, outputs, out)

    def _places(self, given: Sequence[Array | None], plan: Plan) -> dict[str, int]:
        """How many places the arrays of the outputs have, by the symbol for that. Raises InputError
        for arrays that are not outputs of a run like this one."""
        infos = self.native.signature.outputs
        found: dict[str, tuple[int, str]] = {}
        for index, array in enumerate(given):
            if array is None or self._data_dependent[index]:
                continue
            info, dtype, shape = infos[index], self._output_dtypes[index], plan.outputs[index]
            room = self._by_output.get(index)
            if room is None:
                check_output(info, dtype, shape, array)
                continue
            check_output(info, dtype, shape, array, room.axis)
            count = places_along(array, room.axis) or 0
            first, other = found.setdefault(room.symbol, (count, info.name))
            if count != first:
                raise InputError(
                    f"The arrays in out for outputs '{other}' and '{info.name}' have {first} and "
                    f"{count} places, used or not: they need as many."
                )
        used = {room.symbol: plan.outputs[room.output][room.axis] for room in self._rooms}
        return used | {symbol: count for symbol, (count, _) in found.items()}

    def _made(self, index: int, plan: Plan, sizes: Sequence[int]) -> Array:
        """A new array for an output, with as many places as the others of its kind have."""
        shape, room = plan.outputs[index], self._by_output.get(index)
        if room is None:
            return np.empty(shape, self._output_dtypes[index])
        count = sizes[self._symbols[room.symbol]]
        whole = (*shape[: room.axis], count, *shape[room.axis + 1 :])
        made: Array = np.empty(whole, self._output_dtypes[index])
        return first_places(made, room.axis, shape[room.axis])

    def _check_apart(
        self, inputs: Sequence[Array], given: Sequence[Array | None], moved: set[int]
    ) -> None:
        """Raises InputError where an output would be written over something else than its input;
        the inputs `moved` are not where their outputs are."""
        infos = self.native.signature.outputs
        read = [
            (self._names[k], array)
            for k, array in enumerate(inputs)
            if k not in self._continued or k in moved
        ]
        written = [
            (infos[k].name, array)
            for k, array in enumerate(given)
            if array is not None and not self._data_dependent[k]
        ]
        if not are_apart([extent(array) for _, array in (*read, *written)]):
            check_apart(written, read, self._updates)


def _begins(arrays: Sequence[Array]) -> list[int]:
    """Where arrays begin; what is a part of another one has no buffer to ask first."""
    return [
        address(array) if array.flags.c_contiguous else array.__array_interface__["data"][0]
        for array in arrays
    ]


def _lie_alike(one: Array, other: Array) -> bool:
    """Whether elements of one index lie equally far behind the first ones in both arrays."""
    if one.strides == other.strides:
        return True
    steps = zip(one.shape, one.strides, other.strides, strict=True)
    return all(step == wanted for size, step, wanted in steps if size > 1)
