"""Builds the C programs of examples/, by their Makefile."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def make_examples(folder: Path, *programs: str) -> None:
    """Makes programs in a folder, with this tree's `bessemer`."""
    script = folder / "bessemer"
    command = "from bessemer.frontends.cli import main; main()"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{command}" "$@"\n')
    script.chmod(0o755)
    given = (f"OUT={folder}", f"BESSEMER={script}", f"PYTHON={sys.executable}")
    done = subprocess.run(
        ["make", "-j2", "-C", EXAMPLES, *given, *(str(folder / name) for name in programs)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
