"""What every compiled model promises: the same bits always, the processor left as it was, and more.

Each promise is tested on whole networks; docs/guarantees.md says what they are. That threads
change no bit is tested in test_threads.py.
"""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

import bessemer
from bessemer.compiler.codegen.artifact.machine import (
    Machine,
    compile_object,
    place_object,
)
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options
from bessemer.frontends import zoo
from bessemer.frontends.builder import Network
from bessemer.frontends.models_in import build_model
from bessemer.frontends.onnx_writer.write import write_onnx
from bessemer.frontends.random_inputs import input_infos, random_arrays
from bessemer.runtime.errors import ExecutionError
from bessemer.runtime.model import CompiledModel
from tests.compiled_kernels import HERE
from tests.onnxruntime_sessions import session_of
from tests.short_networks import short_mobilenet, short_resnet

TARGET = HERE[-1].name if HERE else ""
"""What most tests compile for: they find their networks in the cache."""
needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86's MXCSR")


@dataclass(frozen=True)
class Example:
    """A network and the sizes of its symbols that it is run at."""

    make: Callable[[], Network]
    sizes: dict[str, int]


EXAMPLES = {
    "mlp": Example(lambda: zoo.mlp(100, (500, 300), 10), {"batch": 33}),
    "resnet": Example(lambda: short_resnet(size=32, small_images=True), {"batch": 3}),
    "mobilenet": Example(lambda: short_mobilenet(64), {"batch": 2}),
    "lstm": Example(
        lambda: zoo.lstm_text(100, 100, features=40, hidden=72, bidirectional=True),
        {"batch": 3, "time": 21},
    ),
    "transformer": Example(
        lambda: zoo.transformer_encoder(100, positions=64, features=96, heads=4, layers=2),
        {"batch": 2, "time": 45},
    ),
}


@cache
def network_of(name: str) -> Network:
    return EXAMPLES[name].make()


@cache
def model_of(name: str, threads: int, target: str = TARGET) -> CompiledModel:
    return bessemer.compile(network_of(name), threads=threads, target=target)


@cache
def inputs_of(name: str) -> dict[str, Array]:
    return random_arrays(input_infos(network_of(name).graph), EXAMPLES[name].sizes, seed=5)


@cache
def expected_of(name: str) -> Array:
    session = session_of(write_onnx(network_of(name).graph))
    return np.asarray(session.run(None, inputs_of(name))[0])


def output_of(model: CompiledModel, name: str) -> Array:
    return model.run(inputs_of(name))[0]


def assert_right(output: Array, name: str) -> None:
    expected = expected_of(name)
    assert output.shape == expected.shape
    assert np.linalg.norm(output - expected) / np.linalg.norm(expected) < 1e-5


# The same bits.


def test_a_row_of_a_batch_does_not_depend_on_the_others_content() -> None:
    model = model_of("mlp", 2)
    (x,) = inputs_of("mlp").values()
    other = x.copy()
    other[1:] = np.nan
    np.testing.assert_array_equal(model(other)[0], model(x)[0])


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "lstm", "transformer"])
@pytest.mark.parametrize("target", [target.name for target in HERE])
def test_every_instruction_set_computes_the_same_network(name: str, target: str) -> None:
    assert_right(output_of(model_of(name, 2, target), name), name)


@pytest.mark.parametrize("name", ["mobilenet", "lstm", "transformer"])
@pytest.mark.parametrize("level", [0, 1])
def test_every_level_computes_the_same_network(name: str, level: int) -> None:
    model = bessemer.compile(network_of(name), threads=1, optimize=level)
    assert_right(output_of(model, name), name)


def test_two_compilations_are_the_same_bytes() -> None:
    first, second = (build_model(network_of("mlp"), Options()) for _ in range(2))
    assert first.code.object == second.code.object
    np.testing.assert_array_equal(first.weights, second.weights)


# The processor.

CONTROL = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define void @read(ptr %place) {
  call void @llvm.x86.sse.stmxcsr(ptr %place)
  ret void
}
define void @write(ptr %place) {
  call void @llvm.x86.sse.ldmxcsr(ptr %place)
  ret void
}
"""
DEFAULT, ROUND_UP, FLUSH = 0x1F80, 0x5F80, 0x9FC0
EXCEPTIONS_SEEN = 0x3F


@cache
def control_word() -> tuple[Callable[[], int], Callable[[int], None]]:
    """Functions that read and set MXCSR."""
    machine = Machine("x86_64-unknown-linux-gnu")
    engine = place_object(compile_object(CONTROL, machine), machine)
    kind = ctypes.PYFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))
    calls = [kind(engine.get_function_address(name)) for name in ("read", "write")]
    slot = ctypes.c_uint32()

    def read() -> int:
        assert engine is not None
        calls[0](ctypes.byref(slot))
        return slot.value & ~EXCEPTIONS_SEEN

    def write(word: int) -> None:
        slot.value = word
        calls[1](ctypes.byref(slot))

    return read, write


@contextmanager
def control(word: int) -> Iterator[Callable[[], int]]:
    """The control word set to this; gives the function that reads it."""
    read, write = control_word()
    before = read()
    write(word)
    try:
        yield read
    finally:
        write(before)


@needs_x86
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("word", [DEFAULT, ROUND_UP, FLUSH])
def test_a_run_leaves_the_control_word_and_does_not_read_it(threads: int, word: int) -> None:
    expected = output_of(model_of("mlp", 1), "mlp")
    model = bessemer.compile(network_of("mlp"), threads=threads, target=TARGET)
    inputs = inputs_of("mlp")
    with control(word) as read:
        assert read() == word
        # Its threads begin in this run.
        (output,) = model.run(inputs)
        assert read() == word
    np.testing.assert_array_equal(output, expected)


@needs_x86
def test_a_run_that_fails_leaves_the_control_word() -> None:
    model = model_of("lstm", 2)
    (tokens,) = inputs_of("lstm").values()
    wrong = tokens.copy()
    wrong[1, 2] = 100
    with control(ROUND_UP) as read:
        with pytest.raises(ExecutionError):
            model.run([wrong])
        assert read() == ROUND_UP


def test_denormals_count_as_zero() -> None:
    """The logits of tiny inputs are those of zeros, as no product of theirs is normal."""
    (x,) = inputs_of("mlp").values()
    model = model_of("mlp", 1)
    tiny = np.full_like(x, 1e-41)
    assert (tiny > 0).all()
    np.testing.assert_array_equal(model(tiny), model(np.zeros_like(x)))


# Errors and threads.


@pytest.mark.parametrize("token", [100, -101, 2**40])
def test_an_index_out_of_range_is_an_error_and_the_model_goes_on(token: int) -> None:
    model = model_of("lstm", 2)
    (tokens,) = inputs_of("lstm").values()
    before = model(tokens)
    wrong = tokens.copy()
    wrong[2, 7] = token
    with pytest.raises(ExecutionError, match="out of range"):
        model(wrong)
    np.testing.assert_array_equal(model(tokens), before)


@pytest.mark.parametrize("threads", [1, 2])
def test_python_threads_share_a_model(threads: int) -> None:
    names = ("resnet", "transformer")
    expected = {name: output_of(model_of(name, 1), name) for name in names}
    different: list[str] = []

    def work(name: str) -> None:
        for _ in range(5):
            if not np.array_equal(output_of(model_of(name, threads), name), expected[name]):
                different.append(name)

    workers = [threading.Thread(target=work, args=(name,)) for name in names * 3]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not different
    for name in names:
        assert model_of(name, threads).memory().contexts <= 1 + len(workers)


def test_python_threads_compile_at_once() -> None:
    """Compilations wait for each other: none sees another's expressions."""
    results: dict[int, Array] = {}
    (x,) = inputs_of("mlp").values()

    def work(seed: int) -> None:
        network = zoo.mlp(100, (20 + seed,), 3, seed=seed)
        results[seed] = bessemer.compile(network, threads=1, cache=False)(x)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed in range(3):
        alone = bessemer.compile(zoo.mlp(100, (20 + seed,), 3, seed=seed), threads=1)
        np.testing.assert_array_equal(results[seed], alone(x))
