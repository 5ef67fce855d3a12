"""All kernels of ResNet-50 and BERT-base for GPUs: made quickly, and assembled without a spill.

`device_assembly.json` says how many registers and how much shared memory they may have;
`python -m tests.device.test_device_assembly` writes it anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bessemer.compiler.device_driver import DeviceCompilation, build_for_device
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.options import Options, Precision
from bessemer.compiler.targets.nvptx import DEVICES, DeviceTarget
from bessemer.frontends import zoo
from bessemer.frontends.builder import Dense, Input, LayerNorm, Network, Sequential, softmax
from tests.device.test_device_registers import assembler

TABLE = Path(__file__).with_name("device_assembly.json")
TARGETS = ("nvptx:sm_80", "nvptx:sm_90a")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
NETWORKS = ("resnet50-1", "resnet50-64", "bert-1", "bert-32")
CASES = [(n, p, t) for n in NETWORKS for p in PRECISIONS for t in TARGETS]
MORE = 8
"""Registers that another version of the assembler may take."""


def graph_of_network(name: str) -> Graph:
    """ResNet-50, or BERT-base on 128 tokens, for the batch that the name ends with."""
    kind, batch = name.split("-")
    if kind == "resnet50":
        return zoo.resnet(50).with_dims({"batch": int(batch)}).graph
    return zoo.transformer_encoder().with_dims({"batch": int(batch), "time": 128}).graph


def resources(text: str, target: DeviceTarget, folder: Path) -> dict[str, tuple[int, int]]:
    """Registers and bytes of static shared memory by kernel, as the assembler says; it must not
    spill, use a stack or warn."""
    program = assembler()
    assert program is not None
    source = folder / "kernels.ptx"
    source.write_text(text)
    command = [str(program), "-v", f"-arch={target.cpu}", str(source), "-o", f"{source}.cubin"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not re.search(r"warning|C75\d\d", done.stderr), done.stderr
    return dict(_entries(done.stderr))


def _entries(report: str) -> Iterator[tuple[str, tuple[int, int]]]:
    for part in report.split("Compiling entry function '")[1:]:
        name = part[: part.index("'")]
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", part)
        used = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        assert stack is not None and used is not None
        assert stack.groups() == ("0", "0"), f"{name}: {stack[0]}"
        yield name, (int(used[1]), int(shared[1]) if shared else 0)


def made(case: tuple[str, Precision, str]) -> DeviceCompilation:
    name, precision, target = case
    device = DEVICES[target]
    return build_for_device(graph_of_network(name), Options(precision=precision), device)


needs_assembler = pytest.mark.skipif(assembler() is None, reason="there is no ptxas here")


@needs_assembler
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_no_kernel_of_a_network_spills(case: tuple[str, Precision, str], tmp_path: Path) -> None:
    compilation = made(case)
    found = resources(compilation.artifact.ptx, compilation.target, tmp_path)
    allowed = json.loads(TABLE.read_text())["-".join(case)]
    shared = {kernel.name: kernel.shared_bytes for kernel in compilation.artifact.kernels}
    assert found.keys() == shared.keys()
    most = max(registers for registers, _ in found.values())
    assert most <= allowed["registers"] + MORE
    assert max(own + shared[name] for name, (_, own) in found.items()) <= allowed["shared"]
    assert len(found) <= allowed["kernels"]


@needs_assembler
def test_no_kernel_of_a_small_network_spills(tmp_path: Path) -> None:
    layers = Sequential(Dense(96), LayerNorm(), softmax, Dense(10))
    graph = Network(layers, Input("x", ("batch", 64))).graph
    for name in TARGETS:
        compilation = build_for_device(graph, Options(), DEVICES[name])
        found = resources(compilation.artifact.ptx, compilation.target, tmp_path)
        assert len(found) == len(compilation.artifact.kernels)


def test_the_text_reads_sixteen_bytes_at_once() -> None:
    network = Network(softmax, Input("x", (64, 768)))
    text = build_for_device(network.graph, Options(), DEVICES["nvptx:sm_80"]).artifact.ptx
    assert "ld.global.nc.v4.b32" in text
    assert "st.global.v4.b32" in text
    assert not re.search(r"\b(ld|st)\.(local|global(\.nc)?\.b32)", text)


def write_table(folder: Path) -> None:
    """Measures all cases."""
    table = {}
    for case in CASES:
        compilation = made(case)
        found = resources(compilation.artifact.ptx, compilation.target, folder)
        shared = {kernel.name: kernel.shared_bytes for kernel in compilation.artifact.kernels}
        table["-".join(case)] = {
            "kernels": len(found),
            "registers": max(registers for registers, _ in found.values()),
            "shared": max(own + shared[name] for name, (_, own) in found.items()),
            "spills": 0,
        }
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder))
