"""The C entry by which Python calls a model leaves Python's memory as it should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_python_checks_its_memory(root: Path) -> None:
    """With guards around every object, freed memory overwritten, and references counted."""
    program = """
import gc
import numpy as np
from tests.runtime.test_entry import UNUSUAL, GOOD, relu_model, relu_reference
model = relu_model(2)
large = np.ones((5000, 4), np.float32)
for turn in range(20):
    for make in UNUSUAL.values():
        for x in (GOOD, large):
            y = model.run({"x": x})[0]
            y[...] = 1
            assert np.array_equal(model.run([x])[0], relu_reference(x))
        arguments, named = make()
        try:
            model.run(*arguments, **named)
        except Exception:
            pass
        gc.collect(0)
print("fine")
"""
    environment = os.environ | {
        "PYTHONMALLOC": "debug",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr
