"""The support code: fields of its structs, and its questions to the machine: processor features,
processors, control groups."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.link import module_text, save
from bessemer.compiler.codegen.artifact.machine import (
    Machine,
    assembly_text,
    compile_object,
    create_target_machine,
    optimized_text,
    place_object,
)
from bessemer.compiler.codegen.support.layout import Layout, expand_fields
from bessemer.compiler.codegen.support.processor import X86_FEATURES, baseline, processor_text
from bessemer.compiler.codegen.support.support import interface_text, shared_texts
from bessemer.compiler.errors import InternalError
from bessemer.compiler.jit import load_code
from bessemer.runtime.errors import ArtifactError
from bessemer.runtime.model import load
from tests import handmade

EMPTY = np.empty(0, np.uint8)
only_x86 = pytest.mark.skipif(
    not handmade.HOST.startswith("x86_64"), reason="x86's own way to ask for features"
)


def test_the_load_of_a_field_is_its_address_and_a_load() -> None:
    pair = Layout("pair", (("first", "i32"), ("second", "ptr")))
    found = expand_fields("  %x = add i32 %a, %b\n  %y = field pair.second, %p\n", [pair])
    assert found.splitlines() == [
        "  %x = add i32 %a, %b",
        "  %y.field = getelementptr %bessemer.pair, ptr %p, i32 0, i32 1",
        "  %y = load ptr, ptr %y.field",
    ]
    with pytest.raises(KeyError, match=r"pair\.third"):
        expand_fields("  %y = field pair.third, %p", [pair])


def function(text: str, name: str, result: Any) -> tuple[Callable[..., Any], object]:
    """A C function without arguments from IR, and what keeps its code."""
    machine = Machine(handmade.HOST)
    engine = place_object(compile_object(text, machine), machine)
    return ctypes.CFUNCTYPE(result)(engine.get_function_address(name)), engine


@only_x86
@pytest.mark.parametrize("feature", sorted(X86_FEATURES))
def test_the_check_for_a_feature_agrees_with_llvms(feature: str) -> None:
    face = (
        "define zeroext i1 @fits() {\n  %r = call i1 @bessemer_processor_fits()\n  ret i1 %r\n}\n"
    )
    text = processor_text(handmade.HOST, [feature]) + face
    text = Template(text).substitute(baseline=baseline(handmade.HOST))
    fits, _engine = function(text, "fits", ctypes.c_bool)
    assert fits() == llvm.get_host_cpu_features()[feature]


@only_x86
def test_a_processor_that_lacks_something_is_told_so(tmp_path: Path) -> None:
    has = llvm.get_host_cpu_features()
    lacking = [feature for feature in sorted(X86_FEATURES) if not has[feature]]
    if not lacking:
        pytest.skip("this processor has everything")
    code = handmade.requiring(("sse4.2", lacking[0]))
    wanted = f"cannot be used here: the processor lacks one of: sse4.2, {lacking[0]}"
    with pytest.raises(ArtifactError, match=wanted):
        load_code(code, EMPTY, Machine(handmade.HOST))
    save(code, EMPTY, tmp_path / "picky.so")
    with pytest.raises(ArtifactError, match=wanted):
        load(tmp_path / "picky.so")


@only_x86
def test_the_check_itself_runs_on_the_plainest_processor() -> None:
    """Only the model's own functions may use what the check asks for."""
    code = handmade.relu()[0]
    text = module_text(code.signature, [handmade.functions("relu", "  ret i32 0")])
    machine = Machine(handmade.HOST, "skylake-avx512", "+avx512f,+avx512vl")
    shared = shared_texts(code.signature.triple, ("avx512f", "avx512vl"))
    for module in (text, *shared, interface_text("relu", code.signature.triple, True)):
        assembly = assembly_text(module, machine)
        assert not [line for line in assembly.splitlines() if "ymm" in line or "\tv" in line]


def test_a_feature_that_nobody_can_check_is_our_own_mistake() -> None:
    with pytest.raises(InternalError, match="check the processor for warp-drive"):
        processor_text(handmade.X86, ["avx2", "warp-drive"])


def processors(groups: Path, own: str) -> int:
    """The default number of threads with the control groups in this folder."""
    own_file = groups / "own"
    own_file.write_text(own)
    text = shared_texts(handmade.HOST, (), has_entry=False)[0]
    for old, new in (("/proc/self/cgroup", str(own_file)), ("/sys/fs/cgroup", str(groups))):
        lines = text.splitlines()
        for index, line in enumerate(lines):
            if f'c"{old}' in line:
                count = int(line.split("constant [")[1].split(" x ")[0])
                line = line.replace(f"[{count} x", f"[{count + len(new) - len(old)} x")
                lines[index] = line.replace(old, new)
        text = "\n".join(lines)
    text += (
        "\ndefine i64 @processors() {\n  %r = call i64 @bessemer_processors()\n  ret i64 %r\n}\n"
    )
    # What an artifact's own module would say of its weights.
    text = text.replace("external hidden constant [64 x i8]", "internal constant [64 x i8] undef")
    text = text.replace("external hidden constant i64", "internal constant i64 0")
    ask, _engine = function(text, "processors", ctypes.c_int64)
    return int(ask())


def test_the_default_is_what_affinity_and_control_groups_allow(tmp_path: Path) -> None:
    allowed = len(os.sched_getaffinity(0))
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    own = "1:name=systemd:/x\n0::/a/b\n"
    assert processors(tmp_path, own) == allowed
    (inner / "cpu.max").write_text("max 100000\n")
    assert processors(tmp_path, own) == allowed
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert processors(tmp_path, own) == min(allowed, 2)
    (tmp_path / "a" / "cpu.max").write_text("50000 100000\n")
    assert processors(tmp_path, own) == 1
    assert processors(tmp_path, "0::/elsewhere\n") == min(allowed, 2)
    assert processors(tmp_path, "") == min(allowed, 2)


def test_version_1_control_groups_count_too(tmp_path: Path) -> None:
    allowed = len(os.sched_getaffinity(0))
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in (("-1", allowed), ("100000", 1), ("900000", min(allowed, 9))):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert processors(tmp_path, "4:cpu:/\n") == expected


def test_affinity_of_one_processor_means_one_thread(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert processors(tmp_path, "") == 1
    finally:
        os.sched_setaffinity(0, allowed)


# Machines and passes.


def test_passes_run_in_the_order_given() -> None:
    text = """
define i32 @twice(i32 %x) {
  %slot = alloca i32
  store i32 %x, ptr %slot
  %a = load i32, ptr %slot
  %b = add i32 %a, 0
  %c = add i32 %b, %b
  ret i32 %c
}
"""
    machine = Machine(handmade.X86)
    assert "alloca" in optimized_text(text, machine, [])
    assert "alloca" not in optimized_text(text, machine, ["sroa"])
    assert "add i32 %x, 0" in optimized_text(text, machine, ["sroa"])
    assert "add i32 %x, 0" not in optimized_text(text, machine, ["sroa", "instcombine"])
    with pytest.raises(InternalError, match="no pass 'magic'; there are"):
        optimized_text(text, machine, ["magic"])


@pytest.mark.parametrize("triple", [handmade.X86, handmade.AARCH64])
def test_both_architectures_assemble_everywhere(triple: str) -> None:
    code = handmade.relu(triple=triple)[0]
    text = module_text(code.signature, [handmade.functions("relu", "  ret i32 0")])
    interface = interface_text("relu", triple, True)
    assert "relu_body" in assembly_text(text, Machine(triple))
    assert "relu_run" in assembly_text(interface, Machine(triple))
    assert code.object.startswith(b"\x7fELF")


def test_a_machine_that_llvm_does_not_know_is_our_own_mistake() -> None:
    with pytest.raises(InternalError, match="no machine 'abacus-unknown'"):
        create_target_machine(Machine("abacus-unknown"))
