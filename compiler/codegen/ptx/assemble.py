"""Assembles PTX to a cubin with NVIDIA's ptxas, if it is installed. Without it, the driver compiles
the PTX."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

from bessemer.compiler.errors import InternalError
from bessemer.compiler.targets.nvptx import DeviceTarget

_PLACES = ("/usr/local/cuda/bin/ptxas",)
_IN_PACKAGES = ("cuda_nvcc/bin/ptxas", "cu13/bin/ptxas")


def find_assembler() -> Path | None:
    """The ptxas on the path, of a toolkit, or of the packages nvidia-cuda-nvcc and
    nvidia-cuda-nvcc-cu12; None if there is none."""
    found = shutil.which("ptxas")
    package = importlib.util.find_spec("nvidia")
    folders = list(package.submodule_search_locations or ()) if package else []
    places = [found] if found else []
    places += [*_PLACES, *(f"{folder}/{part}" for folder in folders for part in _IN_PACKAGES)]
    return next((Path(place) for place in places if Path(place).is_file()), None)


def assembler_version(program: Path) -> str:
    """A version such as "12.9.86"; "" if the program does not print one."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    words = done.stdout.partition(" V")[2].split()
    return words[0] if words and done.returncode == 0 else ""


def assemble(ptx: str, target: DeviceTarget) -> bytes:
    """The cubin; no bytes if there is no assembler, or it is too old for the text. Raises
    InternalError if ptxas rejects the text."""
    program = find_assembler()
    if program is None or ".entry" not in ptx:
        return b""
    with tempfile.TemporaryDirectory() as name:
        source, made = Path(name) / "kernels.ptx", Path(name) / "kernels.cubin"
        source.write_text(ptx)
        command = [str(program), f"-arch={target.cpu}", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return made.read_bytes()
    if "Unsupported .version" in done.stderr or "is not defined for option" in done.stderr:
        return b""
    raise InternalError(f"ptxas refuses the code for {target.name}:\n{done.stderr[:2000]}")
