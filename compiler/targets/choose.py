"""Finds targets by name, and the target of the machine at hand."""

from __future__ import annotations

import platform

from bessemer.compiler.errors import CompileError
from bessemer.compiler.targets import aarch64, nvptx, x86
from bessemer.compiler.targets.machine import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*reversed(x86.TARGETS), aarch64.NEON)
}
_ALIASES = {
    "aarch64": aarch64.NEON,
    "aarch64-linux": aarch64.NEON,
    "x86_64": x86.SSE42,
    "x86_64-linux": x86.SSE42,
}


def host_target() -> Target:
    """The machine that this process runs on."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return x86.host()
    if machine in ("aarch64", "arm64"):
        return aarch64.NEON
    raise CompileError(f"Bessemer has no target for this machine ({machine}).")


def parse_target(name: str) -> Target:
    """A target by its name; "" and "host" are this machine."""
    if name in ("", "host", "native"):
        return host_target()
    if name.startswith(nvptx.PREFIX):
        return nvptx.device_named(name)
    found = TARGETS.get(name) or _ALIASES.get(name)
    if found is None:
        known = ", ".join(["host", *TARGETS, "cuda", *nvptx.DEVICES])
        raise CompileError(f"There is no target '{name}'. The targets are {known}.")
    return found
