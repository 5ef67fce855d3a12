"""Imports modules of this package only when they are first used: importing some takes a while."""

from __future__ import annotations

import importlib
from typing import Any


def import_on_use(name: str) -> Any:
    """A module by its name in this package."""
    return importlib.import_module(f"bessemer.frontends.{name}")
