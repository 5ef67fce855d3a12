"""What tests of commands share: memory is measured in a few megabytes."""

import pytest


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile measures the machine's memory first; the system takes long to give 256 MiB of it,
    and what a test wants to know of the speed is not how exact it is."""
    monkeypatch.setattr("bessemer.frontends.profiling.bandwidth._MEMORY", 1 << 24)
