"""Whole networks give the same bits with any number of threads, and with a caller's own."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.types import Array
from bessemer.frontends import zoo
from bessemer.frontends.builder import Network
from bessemer.frontends.onnx_writer.write import write_onnx
from bessemer.runtime.arrays import address
from bessemer.runtime.model import CompiledModel
from bessemer.runtime.native import Options
from tests.network_runs import numbers
from tests.onnxruntime_sessions import session_of
from tests.short_networks import short_mobilenet, short_resnet

Task = Callable[[int], None]
Order = Callable[[int, Task], None]

# Large enough for most kernels to be shared.
NETWORKS: dict[str, tuple[Callable[[], Network], dict[str, Array]]] = {
    "mlp": (lambda: zoo.mlp(400, (512, 300), 10), {"x": numbers(65, 400)}),
    "resnet": (lambda: short_resnet(size=64), {"image": numbers(1, 3, 64, 64)}),
    "mobilenet": (lambda: short_mobilenet(96), {"image": numbers(1, 3, 96, 96)}),
    "unet": (lambda: zoo.unet(width=8, depth=1), {"image": numbers(1, 3, 64, 48)}),
    "transformer": (
        lambda: zoo.causal_transformer(50, positions=64, features=64, heads=4, layers=2),
        {"tokens": np.arange(3 * 61).reshape(3, 61) % 50},
    ),
    "generator": (
        lambda: zoo.dcgan_generator(20, width=8, doublings=3),
        {"noise": numbers(5, 20, 1, 1)},
    ),
    "lstm": (
        lambda: zoo.lstm_text(50, 7, features=64, hidden=128),
        {"tokens": np.arange(8 * 30).reshape(8, 30) % 50},
    ),
    "bidirectional": (
        lambda: zoo.lstm_text(100, 100, features=40, hidden=72, bidirectional=True),
        {"tokens": np.arange(3 * 21).reshape(3, 21) % 100},
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def alone(request: pytest.FixtureRequest) -> tuple[Network, dict[str, Array], list[Array]]:
    """A network, its inputs, and what it makes of them on one thread, which is right."""
    make, feed = NETWORKS[request.param]
    network = make()
    found = bessemer.compile(network, threads=1).run(feed)
    expected = session_of(write_onnx(network.graph)).run(None, feed)
    for ours, theirs in zip(found, map(np.asarray, expected), strict=True):
        assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)
    return network, feed, found


def test_bits_do_not_depend_on_threads(
    alone: tuple[Network, dict[str, Array], list[Array]],
) -> None:
    network, feed, expected = alone
    for threads in (1, 2, 3):
        model = bessemer.compile(network, threads=threads)
        before = _threads()
        pause = threading.Event()
        for wait in (0, 0, 0.01, 0):  # workers that are awake, and that sleep
            pause.wait(wait)
            for found, wanted in zip(model.run(feed), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)
        assert len(_threads()) == len(before) + threads - 1
        del model


def _sleeps(thread: str) -> int:
    """How often a thread of this process has gone to sleep, once it sleeps."""
    while True:
        words = Path(f"/proc/self/task/{thread}/status").read_text().split()
        if words[words.index("State:") + 1] == "S":
            return int(words[words.index("voluntary_ctxt_switches:") + 1])
        time.sleep(0.01)


def _threads() -> set[str]:
    return {task.name for task in Path("/proc/self/task").iterdir()}


def test_short_runs_in_a_row_wake_a_worker() -> None:
    """One run of a few microseconds is not worth waking anybody, many in a row are."""
    model = bessemer.compile(zoo.mlp(600, (), 600), threads=2, dims={"batch": 1})
    feed = {"x": numbers(1, 600)}
    others = _threads()
    model.run(feed)
    (worker,) = _threads() - others
    before = _sleeps(worker)
    for _ in range(2000):
        model.run(feed)
    assert _sleeps(worker) > before


def _forwards(count: int, task: Task) -> None:
    for index in range(count):
        task(index)


def _backwards(count: int, task: Task) -> None:
    for index in reversed(range(count)):
        task(index)


def _odd_first(count: int, task: Task) -> None:
    for index in (*range(1, count, 2), *range(0, count, 2)):
        task(index)


def _at_once(count: int, task: Task) -> None:
    workers = [threading.Thread(target=task, args=(index,)) for index in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("order", [_forwards, _backwards, _odd_first, _at_once])
def test_a_caller_s_parallel_for_may_use_any_order(
    alone: tuple[Network, dict[str, Array], list[Array]], order: Order
) -> None:
    network, feed, expected = alone
    counts: list[int] = []

    def observed(count: int, task: Task) -> None:
        counts.append(count)
        order(count, task)

    found = _run_with(bessemer.compile(network, threads=1), 5, observed, feed, expected)
    for actual, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert counts and all(1 < count <= 5 for count in counts)


_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
_PARALLEL_FOR = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
)


def _run_with(
    model: CompiledModel,
    threads: int,
    order: Order,
    feed: dict[str, Array],
    like: list[Array],
) -> list[Array]:
    """Through the C functions, as a program with a thread pool of its own would."""

    def parallel_for(_user: object, count: int, task: int, argument: int) -> None:
        function = _TASK(task)
        order(count, lambda index: function(argument, index))

    callback = _PARALLEL_FOR(parallel_for)
    native, weights = model._runner.native, model._runner._weights
    options = Options(threads=threads, weights=address(weights) if weights is not None else None)
    options.parallel_for = ctypes.cast(callback, ctypes.c_void_p)
    context = ctypes.c_void_p()
    assert native.create(ctypes.addressof(context), ctypes.addressof(options)) == 0
    inputs = [np.ascontiguousarray(feed[info.name]) for info in model.inputs]
    outputs = [np.full_like(array, 77) for array in like]
    sizes: dict[str, int] = {}
    for info, array in zip(model.inputs, inputs, strict=True):
        sizes |= {s: n for s, n in zip(info.shape, array.shape, strict=True) if isinstance(s, str)}
    places = [(ctypes.c_void_p * 9)(*map(address, arrays)) for arrays in (inputs, outputs)]
    dims = (ctypes.c_int64 * 9)(*[sizes[name] for name in model.signature.symbols])
    tables = [*[ctypes.addressof(place) for place in places], ctypes.addressof(dims)]
    status = native.run(context.value, *tables, None, 0)
    native.destroy(context.value)
    assert status == 0
    return outputs
