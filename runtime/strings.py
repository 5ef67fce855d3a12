"""Strings in inputs and outputs of a model: the compiled code sees indices into the model's table.

A string that is not in the table gets a place behind its end, the same within one call: so equal
strings are equal numbers, and what goes through unread comes out as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bessemer.runtime.argument_order import Inputs, Outputs, in_order, outputs_in_order
from bessemer.runtime.arrays import Array, as_input, numpy_dtype
from bessemer.runtime.artifact import ArrayInfo, Signature, Strings
from bessemer.runtime.entry import Run
from bessemer.runtime.errors import InputError
from bessemer.runtime.preparation import prepare, strings_of
from bessemer.runtime.shapes import format_shape


class StringBoundary:
    """Between a caller who speaks strings and code that knows their places only."""

    def __init__(self, strings: Strings, inputs: Sequence[ArrayInfo]) -> None:
        """`inputs` are those of the code."""
        self._steps = strings.steps
        self._inputs = inputs
        self.given: Sequence[ArrayInfo] = strings.given if strings.steps else inputs
        self._names = [info.name for info in self.given]
        self._places = {text: place for place, text in enumerate(strings.table)}
        self._texts = strings_of(strings.table, (len(strings.table),))

    def enter(self, inputs: Inputs) -> tuple[list[Any], Words]:
        """What the code takes for what the caller gives, and the strings of this call."""
        words = Words(self._places, self._texts)
        values = in_order(self._names, inputs)
        if self._steps:
            values = self._prepared(values)
        for at, info in enumerate(self._inputs):
            if info.dtype == "string":
                values[at] = words.places(info, values[at])
        return values, words

    def _prepared(self, values: Sequence[Any]) -> list[Any]:
        """The arrays that the code takes, those of strings still as strings."""
        arrays = {
            info.name: as_strings(info, value)
            if info.dtype == "string"
            else as_input(info, numpy_dtype(info.dtype), value)
            for info, value in zip(self.given, values, strict=True)
        }
        for info in self.given:
            _check_rank(info, arrays[info.name])
        arrays = prepare(self._steps, arrays)
        return [arrays[info.name] for info in self._inputs]


class Words:
    """The strings of one call, those of the table and others."""

    def __init__(self, places: Mapping[str, int], texts: Array) -> None:
        self._known = places
        self._texts = texts
        self._others: dict[str, int] = {}

    def places(self, info: ArrayInfo, value: object) -> Array:
        """i32: where each string of an input is. Raises InputError for what are not strings."""
        array = value if isinstance(value, np.ndarray) else as_strings(info, value)
        texts = array.reshape(-1).tolist()
        try:
            found = np.fromiter(map(self._known.__getitem__, texts), np.int32, len(texts))
        except (KeyError, TypeError):  # what the table has not, among it what is not a str
            found = self._with_others(info, array)
        return found.reshape(array.shape)

    def _with_others(self, info: ArrayInfo, array: Array) -> Array:
        """Looks up each string once: those that the table has not are often the same."""
        texts = array.reshape(-1).tolist()
        distinct = _distinct(texts)
        if distinct is None:
            texts = as_strings(info, array).reshape(-1).tolist()
            distinct = dict.fromkeys(texts, -1)
        others, first = self._others, len(self._known)
        for text in distinct:
            place = self._known.get(text)
            distinct[text] = (
                others.setdefault(text, first + len(others)) if place is None else place
            )
        return np.fromiter(map(distinct.__getitem__, texts), np.int32, len(texts))

    def texts(self, places: Array) -> Array:
        """The strings at these places."""
        texts = self._texts
        if self._others:
            others = [*self._others]
            texts = np.concatenate([texts, strings_of(others, (len(others),))])
        return texts[places] if places.ndim else texts[places.reshape(1)].reshape(())


def _distinct(texts: list[Any]) -> dict[str, int] | None:
    """Each string once, in the order of the first of each; None where there are others than str."""
    try:
        distinct = dict.fromkeys(texts, -1)
    except TypeError:  # a list, for example
        return None
    return distinct if set(map(type, distinct)) <= {str} else None


class StringCalls:
    """`run` for a caller who speaks strings; safe to call from several threads at once."""

    def __init__(self, signature: Signature, run: Run) -> None:
        """`run` takes and gives the code's arrays."""
        assert signature.strings is not None
        self._boundary = StringBoundary(signature.strings, signature.inputs)
        self._outputs = signature.outputs
        self._run = run

    def run(self, inputs: Inputs, out: Outputs | None = None) -> list[Array]:
        """What CompiledModel.run says, with arrays of str for strings."""
        infos = self._outputs
        numbers, words = self._boundary.enter(inputs)
        if out is None:
            results = self._run(numbers)
            return [
                words.texts(result) if info.dtype == "string" else result
                for info, result in zip(infos, results, strict=True)
            ]
        given = outputs_in_order(infos, out)
        results = self._run(
            numbers,
            [None if info.dtype == "string" else array for info, array in zip(infos, given)],
        )
        return [
            _written(info, words.texts(result), array) if info.dtype == "string" else result
            for info, result, array in zip(infos, results, given, strict=True)
        ]


def given_arrays(signature: Signature) -> tuple[ArrayInfo, ...]:
    """What a caller in Python gives, which steps may make the code's inputs of."""
    strings = signature.strings
    return strings.given if strings is not None and strings.steps else signature.inputs


def as_strings(info: ArrayInfo, value: object) -> Array:
    """An array of objects, every one a str; raises InputError for anything but strings."""
    try:
        array = value if isinstance(value, np.ndarray) else np.array(value, object)
    except ValueError as error:
        raise InputError(f"Input '{info.name}' is not an array of strings: {error}") from None
    if array.dtype.kind not in "OUST":
        raise InputError(f"Input '{info.name}' has dtype {array.dtype}, expected strings.")
    texts: list[Any] = array.reshape(-1).tolist()
    if set(map(type, texts)) <= {str}:
        return array if array.dtype == object else strings_of(texts, array.shape)
    for place, text in enumerate(texts):
        if isinstance(text, bytes):
            texts[place] = _decoded(info, text)
        elif not isinstance(text, str):
            raise InputError(
                f"Input '{info.name}' holds {text!r}, a {type(text).__name__}; expected strings."
            )
    return strings_of(texts, array.shape)


def _decoded(info: ArrayInfo, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise InputError(f"Input '{info.name}' holds {text!r}, which is not UTF-8.") from None


def _check_rank(info: ArrayInfo, array: Array) -> None:
    fits = array.ndim == len(info.shape)
    for wanted, size in zip(info.shape, array.shape):
        fits = fits and (isinstance(wanted, str) or wanted == size)
    if not fits:
        raise InputError(
            f"Input '{info.name}' has shape {format_shape(array.shape)}, "
            f"expected {format_shape(info.shape)}."
        )


def _written(info: ArrayInfo, found: Array, array: object) -> Array:
    """The strings, in the caller's array where there is one."""
    if array is None:
        return found
    if not isinstance(array, np.ndarray) or array.dtype != object or array.shape != found.shape:
        raise InputError(
            f"The array in out for output '{info.name}' is not an array of objects of shape "
            f"{format_shape(found.shape)}."
        )
    array[...] = found
    return array
