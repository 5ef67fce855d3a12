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

from bessemer.compiler.codegen.ptx.module import ptx_of
from bessemer.compiler.codegen.ptx.tiles.contraction import emit_kernel
from bessemer.compiler.ir.device import DeviceLaunch
from bessemer.compiler.ir.operands import Tile
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import bf16, f32
from bessemer.compiler.schedule.device import contraction as schedule
from bessemer.compiler.schedule.device.contraction_tiles import Choice, candidates
from bessemer.compiler.schedule.device.program import build_device_program
from bessemer.compiler.targets.nvptx import SM80, SM90A, DeviceTarget
from tests.device.device_contraction_cases import BF16, Product, product_graph, tile_name
from tests.device.test_device_attention import F32, Case, attention


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
    "simt 128x128": (152, 49152),
    "simt 128x64": (104, 36864),
    "simt 64x128": (112, 36864),
    "simt 64x64": (104, 24576),
    "simt 32x64": (104, 18432),
    "simt 32x32": (72, 12288),
    "wgmma 128x128 in parts": (168, 217120),
    "wgmma 128x64 in parts": (168, 184352),
    "wgmma 64x128 in parts": (192, 165920),
    "wgmma 64x64 in parts": (112, 165936),
    "wgmma 64x32 in parts": (112, 157760),
    "mma 128x128 in parts": (184, 65536),
    "mma 128x64 in parts": (128, 49152),
    "mma 64x128 in parts": (128, 49152),
    "mma 64x64 in parts": (128, 32768),
    "mma 32x64 in parts": (80, 24576),
    "mma 64x32 in parts": (80, 24576),
    "mma 32x32 in parts": (64, 16384),
}

CASES = [
    pytest.param(
        *(tile, target, transposed, in_parts or level == "simt"),
        marks=[pytest.mark.slow] if in_parts or transposed == (True, True) else [],
    )
    for level, dtype, target, sides, in_parts in (
        ("wgmma", bf16, SM90A, ((False, True),), False),
        ("mma", bf16, SM80, ((False, False), (True, True)), False),
        ("simt", f32, SM80, ((False, False), (True, True)), False),
        ("wgmma", bf16, SM90A, ((False, True),), True),
        ("mma", f32, SM80, ((False, False), (True, True)), True),
    )
    for tile in candidates(level, dtype, target, 3 if in_parts else 1)  # type: ignore[arg-type]
    for transposed in sides
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


def checked(said: str) -> int:
    """The registers of a thread; nothing is spilled, and no wgmma is made to wait."""
    assert "C75" not in said
    spills = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", said)
    assert spills
    assert not any(map(int, spills))
    registers = re.search(r"Used (\d+) registers", said)
    assert registers is not None
    return int(registers[1])


@pytest.mark.parametrize(("tile", "target", "transposed", "wide"), CASES, ids=tile_name)
def test_sums_stay_in_registers(
    tile: Tile,
    target: DeviceTarget,
    transposed: tuple[bool, bool],
    wide: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "choose", lambda *_: Choice(tile, 1, 0.0))
    dtype = F32 if wide else BF16
    case = Product(
        2 * tile.rows,
        2 * tile.columns,
        512,
        dtype,
        weights=False,
        transposed=transposed,
        residual=True,
    )
    graph, _, _ = product_graph(case, np.random.default_rng(0))
    launches = [s for s in build_device_program(graph, target).steps if isinstance(s, Launch)]
    launch = launches[-1]
    assert isinstance(launch, DeviceLaunch)
    code = emit_kernel(launch.kernel, target, launch.mapping)
    registers = checked(assembled(ptx_of(code, target), target, tmp_path))
    in_parts = " in parts" if wide and tile.level != "simt" else ""
    name = f"{tile.level} {tile.rows}x{tile.columns}{in_parts}"
    most, shared = TABLE[name]
    assert registers <= most, name
    assert code.shared_bytes <= shared <= target.shared_bytes, name


ATTENTIONS = {
    Case(256, 256, 64): (184, 40960),
    Case(256, 256, 128): (232, 81920),
    Case(256, 250, 128, mask=True): (248, 81920),
    Case(256, 256, 32, causal=True): (136, 20480),
    Case(256, 256, 64, mask=True, dtype=F32): (255, 98304),
    Case(256, 256, 128, causal=True, dtype=F32): (255, 131072),
}


@pytest.mark.parametrize("target", [SM80, SM90A], ids=tile_name)
@pytest.mark.parametrize("case", ATTENTIONS, ids=str)
def test_attention_stays_in_registers(case: Case, target: DeviceTarget, tmp_path: Path) -> None:
    graph, _, _ = attention(case, np.random.default_rng(0))
    launches = [s for s in build_device_program(graph, target).steps if isinstance(s, DeviceLaunch)]
    launch = next(launch for launch in launches if launch.kernel.name == "attention")
    code = emit_kernel(launch.kernel, target, launch.mapping)
    registers = checked(assembled(ptx_of(code, target), target, tmp_path))
    most, shared = ATTENTIONS[case]
    assert registers <= most
    assert code.shared_bytes <= shared
