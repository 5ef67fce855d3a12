"""Two compilations of one model, run alternately: whether a change of the compiler made it faster.

python -m benchmarks artifacts OLD.so NEW.so
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import bessemer
from bessemer.frontends.array_files import write_arrays
from bessemer.frontends.cli.bench_rounds import Measured, Setting, measure
from bessemer.frontends.cli.bench_worker import ARTIFACT, Job
from bessemer.frontends.cli.models import inputs_for

COLUMNS = ("threads", "old ms", "new ms", "new / old", "of minima", "outputs")


def compare_artifacts(
    old: Path, new: Path, threads: Sequence[int], rounds: int, seconds: float
) -> list[list[str]]:
    """A table's lines, one for each number of threads; each artifact has a process of its own."""
    with tempfile.TemporaryDirectory(prefix="bessemer-artifacts-") as name:
        folder = Path(name)
        inputs = folder / "inputs.npz"
        write_arrays(inputs, inputs_for(bessemer.load(old), old, {}, 0))
        lines = []
        for count in threads:
            settings = [
                Setting(path.name, Job(ARTIFACT, str(path.resolve()), count, str(inputs)))
                for path in (old, new)
            ]
            lines.append(_line(count, *measure(settings, folder, rounds, seconds, quiet=True)))
    return lines


def _line(threads: int, old: Measured, new: Measured) -> list[str]:
    if error := old.error or new.error:
        return [str(threads), "–", "–", "–", "–", error]
    pairs = zip(old.outputs, new.outputs, strict=True)
    equal = all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)
    return [
        str(threads),
        f"{old.median * 1e3:.4f}",
        f"{new.median * 1e3:.4f}",
        f"{new.median / old.median:.3f}",
        f"{new.min / old.min:.3f}",
        "same bits" if equal else f"differ by {new.error_to(old):.1e}",
    ]
