"""Tunings as JSON files: what was found best, by target and by the kernels' signatures.

{"format": 1, "targets": {TARGET: {SIGNATURE: {"height": 14, "vectors": 2, ...}}}}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bessemer.compiler.errors import CompileError
from bessemer.compiler.options import Tuning
from bessemer.compiler.targets.machine import Target

_FORMAT = 1


def read_tuning(path: Path, target: Target) -> Tuning:
    """The file's choices for a target, none where it has none. Raises CompileError for a file that
    cannot be read."""
    targets = _targets(path)
    choices = targets.get(target.name, {})
    if not isinstance(choices, dict) or not all(isinstance(c, dict) for c in choices.values()):
        raise CompileError(f"{path} is damaged: write it anew with `bessemer tune`.")
    return Tuning(choices)


def write_tuning(path: Path, tuning: Tuning, target: Target) -> None:
    """Adds a target's choices to a file, or replaces those that it has; makes the file."""
    targets = _targets(path) if path.exists() else {}
    known = targets.get(target.name, {})
    choices = {**known, **{name: dict(one) for name, one in tuning.choices.items()}}
    targets[target.name] = dict(sorted(choices.items()))
    text = json.dumps({"format": _FORMAT, "targets": targets}, indent=1) + "\n"
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text)
        part.replace(path)
    except OSError as error:
        raise CompileError(f"Cannot write {path}: {error.strerror}") from None


def _targets(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CompileError(f"{path} cannot be read as a tuning: {error}") from None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise CompileError(f"{path} is no tuning of format {_FORMAT}.")
    targets = found.get("targets", {})
    return targets if isinstance(targets, dict) else {}
