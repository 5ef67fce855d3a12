"""Tunings as JSON files: what was found best, by target and by the kernels' signatures.

{"format": 1, "targets": {TARGET: {SIGNATURE: {"height": 14, "vectors": 2, ...}}}}

A GPU's TARGET is its name, its compute capability, and the level that the code is for:
"NVIDIA H200, 9.0, nvptx:sm_90a, PTX 8.0".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bessemer.compiler.errors import CompileError
from bessemer.compiler.options import Choice, Tuning
from bessemer.compiler.targets.machine import Target
from bessemer.compiler.targets.nvptx import DeviceTarget
from bessemer.frontends.text_files import write_text

_FORMAT = 1


def given_tuning(tuning: str | Path | Tuning, target: Target) -> Tuning:
    """The choices that a caller gives, which may be in a file. Raises CompileError for the file."""
    if isinstance(tuning, Tuning):
        return tuning
    if not isinstance(tuning, (str, Path)):
        raise CompileError(
            f"tuning={tuning!r} is not the name of a file that `bessemer tune` wrote."
        )
    return read_tuning(Path(tuning), target)


def read_tuning(path: Path, target: Target) -> Tuning:
    """The file's choices for a target, none where it has none; for a GPU's level those of the one
    device that has some. Raises CompileError for a file that cannot be read, or has several."""
    if not isinstance(target, DeviceTarget):
        return read_choices(path, target.name)
    keys = [key for key in _targets(path) if key.endswith(f", {target.description}")]
    if len(keys) > 1:
        raise CompileError(
            f"{path} has choices for {target.name} of several devices: {'; '.join(keys)}. "
            "Keep one file for each device."
        )
    return read_choices(path, keys[0]) if keys else Tuning()


def read_choices(path: Path, key: str) -> Tuning:
    """What the file has for a machine."""
    choices = _targets(path).get(key, {})
    if not isinstance(choices, dict) or not all(isinstance(c, dict) for c in choices.values()):
        raise CompileError(f"{path} is damaged: write it anew with `bessemer tune`.")
    return Tuning(choices)


def kept_choices(place: Path | None, key: str) -> Tuning | None:
    """What a cache keeps of a machine's choices; None where that is nothing that can be read."""
    if place is None:
        return None
    try:
        return read_choices(place, key)
    except CompileError:
        return None


def keep_choices(place: Path | None, tuning: Tuning, key: str) -> None:
    """Writes a cache's file; one that cannot be written keeps nothing."""
    if place is not None:
        with suppress(CompileError):
            _write(place, {key: _sorted(tuning.choices)})


def write_tuning(path: Path, tuning: Tuning, target: Target) -> None:
    """Adds a processor's choices to a file, or replaces those that it has; makes the file."""
    write_choices(path, tuning, target.name)


def write_choices(path: Path, tuning: Tuning, key: str) -> None:
    """The same for any machine."""
    targets = _targets(path) if path.exists() else {}
    known = targets.get(key, {})
    targets[key] = _sorted({**known, **tuning.choices})
    _write(path, targets)


def check_choices(path: Path) -> None:
    """Measuring takes long: raises CompileError now for a file to which choices cannot be added."""
    if path.exists():
        _targets(path)


def _sorted(choices: Mapping[str, Choice]) -> dict[str, dict[str, int]]:
    return {name: dict(one) for name, one in sorted(choices.items())}


def _write(path: Path, targets: Mapping[str, object]) -> None:
    text = json.dumps({"format": _FORMAT, "targets": targets}, indent=1) + "\n"
    write_text(path, text)


def _targets(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise CompileError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CompileError(f"{path} is not a tuning that `bessemer tune` wrote: {error}") from None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise CompileError(
            f"{path} is not a tuning of format {_FORMAT}. Write one by `bessemer tune -o {path}`."
        )
    targets = found.get("targets", {})
    return targets if isinstance(targets, dict) else {}
