"""Whatever keeps a model from a GPU is told in a sentence, and leaves processors alone.

The real driver's class runs here over a libcuda that emulates (fake_libcuda.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.compiler.targets.nvptx import SM75, SM80, SM90A
from bessemer.frontends.builder import Dense, Input, Network
from bessemer.frontends.cli import doctor
from bessemer.frontends.save_device import levels_named, save_forms
from bessemer.runtime.cuda import libcuda
from bessemer.runtime.cuda.driver import DeviceMemoryError, NoDeviceError
from bessemer.runtime.cuda.load import load_for_device
from bessemer.runtime.errors import ArtifactError, InputError
from emulator.driver import EmulatedDevice, EmulatedDriver
from tests.command_line import run_command, save_net
from tests.device.test_device_library import (
    EVERY,
    build,
    emulated,
    expected,
    forms_of,
    inputs,
    network,
    run,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library for sm_80."""
    return build(tmp_path_factory.mktemp("library"), network(), SM80)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without NVIDIA's driver."""
    monkeypatch.setattr(libcuda.CudaDriver.__init__, "__defaults__", ("libcuda-is-not-here.so",))


def test_the_real_driver_s_class_runs_a_model(built: Path) -> None:
    given = [inputs(40, 1), inputs(5)]
    told = run(built, *given, runs=4, python=True)
    assert told["errors"] == []
    with np.load(built.parent / "outputs.npz") as found:
        for number in range(4):
            np.testing.assert_allclose(found[f"{number}_y"], expected(given[number % 2]), atol=2e-4)
    assert told["calls"].count("cuGraphLaunch") == 4
    assert told["calls"].count("cuGraphInstantiateWithFlags") == 2  # one for each shape
    assert told["left"] == 0


FAILURES: list[tuple[dict[str, Any], str, str]] = [
    ({"is_missing": True}, "NoDeviceError", "Install the NVIDIA driver, or compile for the CPU"),
    ({"devices": 0}, "NoDeviceError", "There is no CUDA device 0: the driver finds 0"),
    ({"device": 2}, "NoDeviceError", "There is no CUDA device 2: the driver finds 1"),
    ({"fail": {"cuInit": 100}}, "NoDeviceError", "check nvidia-smi and CUDA_VISIBLE_DEVICES"),
    ({"level": 75}, "DeviceError", "compiled for nvptx:sm_80, PTX 7.0; .*capability 7.5"),
    ({"fail": {"cuModuleLoadDataEx": 222}}, "DriverTooOldError", "install a newer one"),
    ({"without": ["cuGraphInstantiateWithFlags"]}, "DriverTooOldError", "has no cuGraph"),
    ({"memory": 2048}, "DeviceMemoryError", "free memory of other processes"),
]


@pytest.mark.parametrize(("settings", "kind", "text"), FAILURES, ids=lambda p: str(p)[:40])
def test_the_driver_says_why_it_cannot(
    settings: dict[str, Any], kind: str, text: str, built: Path
) -> None:
    told = run(built, inputs(5), python=True, **settings)
    ((found, message),) = told["errors"]
    assert found == kind
    assert re.search(text, message), message


def test_too_little_memory_for_a_size_leaves_the_model_whole(built: Path) -> None:
    told = run(built, inputs(4000), inputs(5), runs=2, python=True, memory=1 << 18)
    ((kind, message),) = told["errors"]
    assert kind == "DeviceMemoryError"
    assert "'net' needs" in message
    with np.load(built.parent / "outputs.npz") as found:
        np.testing.assert_allclose(found["1_y"], expected(inputs(5)), atol=1e-4)


def test_no_driver_is_told_before_anything_is_compiled(no_driver: None, tmp_path: Path) -> None:
    net = save_net(tmp_path)
    with pytest.raises(NoDeviceError, match="no CUDA driver: libcuda-is-not-here"):
        bessemer.compile(net, target="cuda")
    x = np.ones((2, 30), np.float32)
    assert bessemer.compile(net, cache=False).run([x])[0].shape == (2, 9)  # the processor's way
    for command in (
        ("run", net, "--target", "cuda"),
        ("compile", net, "-o", tmp_path / "net.so", "--target", "cuda"),
    ):
        code, _, err = run_command(*command)
        assert code == 4
        assert err.splitlines()[-1].startswith("NoDeviceError: no CUDA driver")
    found = doctor._devices()
    assert "Install the NVIDIA driver" in found["driver"]
    assert "nvptx:sm_90a" in found["targets"]


def test_what_a_model_is_given_must_have_its_dtype() -> None:
    model = bessemer.compile(
        Network(Dense(3), Input("x", ("n", 4))), target="nvptx:sm_80", driver=EmulatedDriver()
    )
    for array in (np.ones((2, 4)), np.ones((2, 4), np.complex64), np.array([["a"] * 4])):
        with pytest.raises(InputError, match="expected float32"):
            model.run([array])


def test_options_that_a_machine_has_not() -> None:
    network = Network(Dense(3), Input("x", ("n", 4)))
    with pytest.raises(CompileError, match="tf32' is for GPUs"):
        bessemer.compile(network, precision="tf32", cache=False)
    with pytest.raises(CompileError, match=r"no target 'nvptx:sm_61'.*nvptx:sm_75"):
        bessemer.compile(network, target="nvptx:sm_61", driver=EmulatedDriver())


def test_of_several_levels_the_device_s_is_compiled() -> None:
    network = Network(Dense(3), Input("x", ("n", 4)))
    model = bessemer.compile(network, target="nvptx:sm_75,sm_80,sm_90a", driver=emulated(86))
    assert model.program.level == 80


def test_files_for_the_other_kind_of_machine(tmp_path: Path) -> None:
    path = tmp_path / "cpu.so"
    bessemer.compile(Network(Dense(3), Input("x", ("n", 4))), cache=False).save(path)
    with pytest.raises(ArtifactError, match="is not a model for GPUs"):
        bessemer.load(path, device=0)
    small = EmulatedDriver(device=EmulatedDevice(memory=4096))
    save_forms(forms_of(network(), SM90A), tmp_path / "net.bessemer")
    with pytest.raises(DeviceMemoryError):
        load_for_device(tmp_path / "net.bessemer", small)


# The command line


def test_the_commands_compile_and_show(tmp_path: Path) -> None:
    net = save_net(tmp_path)
    file = tmp_path / "net.bessemer"
    code, out, _ = run_command("compile", net, "-o", file, "--target", "nvptx:sm_80,sm_90a", "-q")
    assert code == 0
    assert "nvptx:sm_80: 1 kernels, 1 launches" in out
    x = np.ones((2, 30), np.float32)
    wanted = bessemer.compile(net, cache=False).run([x])[0]
    for level in (86, 90):
        found = bessemer.load(file, device=0, driver=emulated(level))
        np.testing.assert_allclose(found.run([x])[0], wanted, rtol=1e-5, atol=1e-6)
    code, out, _ = run_command("inspect", net, "--emit", "ptx", "--target", "nvptx:sm_80")
    assert code == 0
    assert ".target sm_80" in out
    code, out, _ = run_command("inspect", net, "--target", "nvptx:sm_90a")
    assert code == 0
    assert "matmul" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("compile", "NET", "-o", "net.o", "--target", "nvptx:sm_80"), 1, "no suffix"),
        (("compile", "NET", "-o", "net.so", "--target", "nvptx:sm_1"), 1, "no target"),
        (("compile", "NET", "-o", "n.so", "--target", "nvptx", "--tune", "1"), 2, "for processors"),
        (("tune", "NET", "--target", "nvptx:sm_80"), 2, "it is the machine at hand"),
        (("inspect", "NET", "--emit", "ptx"), 2, "wants a GPU"),
        (("inspect", "NET", "--emit", "groups", "--target", "nvptx:sm_80"), 2, "for processors"),
        (("run", "NET", "--target", "x86_64"), 2, "on a GPU"),
    ],
)
def test_usage(words: tuple[str, ...], code: int, message: str, tmp_path: Path) -> None:
    net = str(save_net(tmp_path))
    found, _, err = run_command(*(net if word == "NET" else word for word in words))
    assert found == code
    assert message in " ".join(err.replace("│", " ").split())


def test_names_of_levels() -> None:
    assert levels_named("nvptx") == EVERY
    assert levels_named("nvptx:sm_80") == (SM80,)
    assert levels_named("nvptx:sm_75,sm_90a") == (SM75, SM90A)
    with pytest.raises(CompileError, match="no target 'nvptx:sm_1'"):
        levels_named("nvptx:sm_80,sm_1")
