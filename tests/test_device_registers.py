"""What NVIDIA's assembler says of contractions, where it is found: no spills, no serialized wgmma,
and no more registers and shared memory than the table has."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bessemer.compiler.codegen.ptx.contraction import emit_kernel
from bessemer.compiler.codegen.ptx.module import ptx_of
from bessemer.compiler.ir.device import DeviceLaunch
from bessemer.compiler.ir.operands import Tile
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import bf16, f32
from bessemer.compiler.schedule.device import contraction as schedule
from bessemer.compiler.schedule.device.contraction_tiles import Choice, candidates
from bessemer.compiler.schedule.device.program import build_device_program
from bessemer.compiler.targets.nvptx import SM80, SM90A, DeviceTarget
from tests.test_device_contractions import BF16, F32, Product, product_graph, tile_name


def assembler() -> Path | None:
    """ptxas of a toolkit on the path, or of the package nvidia-cuda-nvcc-cu12."""
    found = shutil.which("ptxas")
    if found:
        return Path(found)
    package = importlib.util.find_spec("nvidia")
    folders = list(package.submodule_search_locations or ()) if package else []
    places = [Path(folder) / "cuda_nvcc" / "bin" / "ptxas" for folder in folders]
    return next((place for place in places if place.exists()), None)


# level, rows x columns: registers of a thread, bytes of shared memory
TABLE = {
    "wgmma 128x256": (168, 217152),
    "wgmma 256x128": (168, 217152),
    "wgmma 128x128": (168, 217184),
    "wgmma 128x64": (168, 184416),
    "wgmma 64x256": (176, 100384),
    "wgmma 64x128": (112, 116800),
    "wgmma 64x64": (72, 100432),
    "wgmma 64x32": (56, 84064),
    "mma 128x128": (144, 65536),
    "mma 128x64": (80, 49152),
    "mma 64x128": (80, 49152),
    "mma 64x64": (80, 32768),
    "mma 32x64": (64, 24576),
    "mma 64x32": (56, 24576),
    "mma 32x32": (56, 16384),
    "simt 128x128": (128, 49152),
    "simt 128x64": (104, 36864),
    "simt 64x128": (112, 36864),
    "simt 64x64": (104, 24576),
    "simt 32x64": (104, 18432),
    "simt 32x32": (72, 12288),
}

CASES = [
    (tile, target, turned)
    for level, dtype, target, sides in (
        ("wgmma", bf16, SM90A, ((False, True),)),
        ("mma", bf16, SM80, ((False, False), (True, True))),
        ("simt", f32, SM80, ((False, False), (True, True))),
    )
    for tile in candidates(level, dtype, target)  # type: ignore[arg-type]
    for turned in sides
]


def assembled(text: str, target: DeviceTarget, folder: Path) -> str:
    """What the assembler says."""
    found = assembler()
    if found is None:
        pytest.skip("there is no ptxas here")
    source = folder / "kernel.ptx"
    source.write_text(text)
    command = [str(found), "-v", f"-arch={target.cpu}", str(source), "-o", str(folder / "kernel")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("tile", "target", "turned"), CASES, ids=tile_name)
def test_sums_stay_in_registers(
    tile: Tile,
    target: DeviceTarget,
    turned: tuple[bool, bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "choose", lambda *_: Choice(tile, 1, 0.0))
    dtype = F32 if tile.level == "simt" else BF16
    case = Product(
        2 * tile.rows, 2 * tile.columns, 512, dtype, weights=False, turned=turned, residual=True
    )
    graph, _, _ = product_graph(case, np.random.default_rng(0))
    launches = [s for s in build_device_program(graph, target).steps if isinstance(s, Launch)]
    launch = launches[-1]
    assert isinstance(launch, DeviceLaunch)
    code = emit_kernel(launch.kernel, target, launch.mapping)
    said = assembled(ptx_of(code, target), target, tmp_path)
    assert "C75" not in said
    spills = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", said)
    assert spills
    assert not any(map(int, spills))
    registers = re.search(r"Used (\d+) registers", said)
    assert registers is not None
    name = f"{tile.level} {tile.rows}x{tile.columns}"
    most, shared = TABLE[name]
    assert int(registers[1]) <= most, name
    assert code.shared_bytes <= shared <= target.shared_bytes, name
