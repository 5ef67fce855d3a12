"""Converts frozen dataclasses to plain JSON data, and back with every type checked.

A dataclass becomes an object with its class's name under "is", tuples become lists, mappings from
numbers become lists of pairs. What is read back is built from the annotations alone: nothing in the
data can name a class that the annotations do not.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Plain = Any
_KIND = "is"


def to_plain(thing: object) -> Plain:
    """What json.dumps takes."""
    if is_dataclass(thing) and not isinstance(thing, type):
        kept = {one.name: to_plain(getattr(thing, one.name)) for one in fields(thing)}
        return {_KIND: type(thing).__name__, **kept}
    if isinstance(thing, (tuple, list)):
        return [to_plain(one) for one in thing]
    if isinstance(thing, Mapping):
        return [[to_plain(key), to_plain(entry)] for key, entry in thing.items()]
    return thing


def from_plain(hint: Any, data: Plain) -> Any:
    """A thing of this type; raises ValueError where the data is none."""
    if hint is Any:
        return data
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(hint), data)
    if origin is Literal:
        return _require(data, any(data is one or data == one for one in get_args(hint)), hint)
    if origin is tuple:
        return _tuple(get_args(hint), _require(data, isinstance(data, list), hint))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        pairs = _require(data, isinstance(data, list), hint)
        return dict(_tuple(get_args(hint), pair) for pair in pairs)
    if is_dataclass(hint) and isinstance(hint, type):
        return _object(hint, data)
    # True is an int to Python; to us it is not.
    return _require(data, type(data) is (type(None) if hint is None else hint), hint)


def _require(data: Plain, holds: bool, hint: Any) -> Plain:
    if not holds:
        wanted = getattr(hint, "__name__", str(hint))
        raise ValueError(f"{str(data)[:60]!r} is no {wanted}")
    return data


def _one_of(hints: tuple[Any, ...], data: Plain) -> Any:
    if isinstance(data, dict):
        hints = tuple(one for one in hints if getattr(one, "__name__", "") == data.get(_KIND))
        if len(hints) == 1:
            return from_plain(hints[0], data)
    for one in hints:
        try:
            return from_plain(one, data)
        except ValueError:
            continue
    raise ValueError(f"{str(data)[:60]!r} is nothing that can stand there")


def _tuple(hints: tuple[Any, ...], data: list[Plain]) -> tuple[Any, ...]:
    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(from_plain(hints[0], one) for one in data)
    if len(hints) != len(data):
        raise ValueError(f"{len(data)} entries where {len(hints)} belong")
    return tuple(map(from_plain, hints, data))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _object(kind: Any, data: Plain) -> Any:
    _require(data, isinstance(data, dict) and data.get(_KIND) == kind.__name__, kind)
    hints = _hints(kind)
    if data.keys() - {_KIND} != {one.name for one in fields(kind)}:
        raise ValueError(f"a {kind.__name__} has the wrong fields")
    return kind(**{name: from_plain(hints[name], data[name]) for name in data if name != _KIND})
