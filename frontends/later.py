"""Modules of this package that are imported when they are called, since that takes a while."""

from __future__ import annotations

import importlib
from typing import Any


def later(name: str) -> Any:
    """A module by its name in this package."""
    return importlib.import_module(f"bessemer.frontends.{name}")
