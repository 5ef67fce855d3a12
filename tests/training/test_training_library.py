"""A training as a C library: the Trainer's bits, its checkpoints, its refusals."""

import ctypes
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.training.library import EXPORTS
from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder.activations import relu
from bessemer.frontends.builder.layer import Sequential
from bessemer.frontends.builder.layers_dense import Dense, Dropout, Flatten
from bessemer.frontends.builder.layers_image import Conv, MaxPool
from bessemer.frontends.builder.layers_normalization import BatchNorm
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.train import losses
from bessemer.frontends.train.metrics import accuracy
from bessemer.frontends.train.optimizers import SGD, Adam
from bessemer.frontends.train.trainer import Trainer
from bessemer.runtime.artifact import SYMBOL_TABLE, Status, elf_machine, read_symbols
from bessemer.runtime.errors import ArtifactError
from bessemer.runtime.model import load
from tests.training.training_library import TrainingLibrary

safetensors = pytest.importorskip("safetensors.numpy")
Array = np.ndarray[Any, Any]
SIZES = (24, 24, 7, 24, 1, 13)
RATE = 0.01


def _trainer(threads: int = 1, **options: Any) -> Trainer:
    layers = Sequential(
        Conv(6, 3, padding=1), BatchNorm(), relu, MaxPool(2), Flatten(), Dropout(0.3),
        Dense(20), relu, Dense(4),
    )  # fmt: skip
    network = Network(layers, Input("x", ("batch", 1, 8, 8)), seed=3)
    options.setdefault("optimizer", Adam(RATE))
    return Trainer(
        network, losses.cross_entropy, [Input("label", ("batch",), "i64")],
        metrics={"accuracy": accuracy}, threads=threads, **options,
    )  # fmt: skip


def _batches() -> list[list[Array]]:
    rng = np.random.default_rng(8)
    return [
        [rng.standard_normal((n, 1, 8, 8)).astype(np.float32), rng.integers(0, 4, n)] for n in SIZES
    ]


def _steps(trainer: Trainer, batches: list[list[Array]]) -> list[list[float]]:
    found = [trainer.step({"x": x, "label": label}) for x, label in batches]
    return [[row["loss"], row["accuracy"]] for row in found]


@pytest.fixture(scope="module")
def file(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("library")
    files = _trainer().export(folder / "small_net.so")
    assert [each.name for each in files] == ["small_net.so", "small_net.h"]
    return files[0]


@pytest.fixture
def library(file: Path) -> Iterator[TrainingLibrary]:
    found = TrainingLibrary(file)
    assert found.init(24) == Status.OK
    yield found
    found.close()


def _c_steps(library: TrainingLibrary, batches: list[list[Array]]) -> list[list[float]]:
    rows = []
    for batch in batches:
        status, row = library.step(batch, RATE)
        assert status == Status.OK, library.message
        rows.append(row)
    return rows


@pytest.mark.parametrize("threads", [1, 2])
def test_its_steps_are_the_trainer_s_bit_for_bit(file: Path, threads: int) -> None:
    library, trainer, batches = TrainingLibrary(file, threads), _trainer(), _batches()
    assert library.init(24) == Status.OK
    arena = library.function("arena_bytes")(library.handle)
    assert _c_steps(library, batches) == _steps(trainer, batches)
    for name, array in library.state(trainer.state).items():
        np.testing.assert_array_equal(array, trainer.state[name], err_msg=name)
    assert library.steps == trainer.steps == len(SIZES)
    assert library.function("arena_bytes")(library.handle) == arena
    x, label = batches[2]
    status, numbers = library.evaluate([x, label])
    wanted = trainer.evaluate({"x": x, "label": label})
    assert (status, numbers) == (Status.OK, [wanted["loss"], wanted["accuracy"]])
    found = np.zeros((len(x), 4), np.float32)
    assert library.predict([x], [found]) == Status.OK
    np.testing.assert_array_equal(found, trainer.predict({"x": x})[0])
    library.close()


def test_without_a_context_there_is_nothing(file: Path) -> None:
    library = TrainingLibrary(file)
    library.close()
    library.handle = ctypes.c_void_p()
    for name in ("steps", "threads", "arena_bytes", "needed_bytes"):
        assert library.function(name)(library.handle) == 0
    assert library.init(24) == Status.INVALID_ARGUMENT
    library.function("trim")(library.handle)
    library.close()


def test_init_goes_back_to_the_start(library: TrainingLibrary) -> None:
    batches = _batches()
    first = _c_steps(library, batches)
    assert _c_steps(library, batches) != first
    assert library.init(24) == Status.OK and library.steps == 0
    assert _c_steps(library, batches) == first


def test_a_checkpoint_goes_on_bit_for_bit(library: TrainingLibrary, tmp_path: Path) -> None:
    batches, place = _batches(), tmp_path / "a b.state"
    _c_steps(library, batches[:3])
    assert library.save(place) == Status.OK, library.message
    assert os.listdir(tmp_path) == ["a b.state"]
    wanted = _c_steps(library, batches[3:])
    assert library.load(place) == Status.OK, library.message
    assert library.steps == 3
    assert _c_steps(library, batches[3:]) == wanted


def test_each_reads_the_other_s_checkpoint(library: TrainingLibrary, tmp_path: Path) -> None:
    batches, trainer, place = _batches(), _trainer(), tmp_path / "c.state"
    wanted = _c_steps(library, batches)
    assert library.init(24) == Status.OK
    _c_steps(library, batches[:2])
    assert library.save(place) == Status.OK
    trainer.restore(place)
    assert trainer.steps == 2
    assert _steps(trainer, batches[2:4]) == wanted[2:4]
    x, label = batches[0]
    # With all that a Trainer puts into one: the best state, a history.
    data = {"x": x, "label": label}
    other = _trainer()
    other.fit(data, epochs=2, batch=5, validation=data, patience=3)
    other.save(place)
    assert library.load(place) == Status.OK, library.message
    assert library.steps == other.steps
    state = library.state(other.state)
    for name, array in other.state.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)
    assert _c_steps(library, batches) == _steps(other, batches)


def test_the_file_is_one_that_others_read(library: TrainingLibrary, tmp_path: Path) -> None:
    place, trainer = tmp_path / "c.state", _trainer()
    assert library.save(place) == Status.OK
    found = safetensors.load_file(place)
    assert found.keys() == trainer.state.keys()
    for name, array in trainer.state.items():
        np.testing.assert_array_equal(found[name], array)


def _damaged(whole: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """What loading says, and the file that it says it of."""
    size = int.from_bytes(whole[:8], "little")
    header, rest = json.loads(whole[8 : 8 + size]), whole[8 + size :]

    def headed(changed: Any, **form: Any) -> bytes:
        data = json.dumps(changed, **form).encode()
        return len(data).to_bytes(8, "little") + data + rest

    array = header[name]
    for change in ({"dtype": "I32"}, {"shape": array["shape"][1:]}, {"data_offsets": [0, 4]}):
        yield f"{name} is missing or not", headed({**header, name: {**array, **change}}, indent=1)
    yield f"{name} is missing or not", headed({k: v for k, v in header.items() if k != name})
    yield "nothing that says", headed({k: v for k, v in header.items() if k != "__metadata__"})
    facts = {"bessemer": json.dumps({"format": 99, "steps": 3})}
    yield "another version", headed({**header, "__metadata__": facts})
    yield "is missing or not", whole[:-1]
    for cut in (0, 5, 9, 100, 8 + size - 1):
        yield "cut off, or no safetensors file", whole[:cut]
    yield "cut off", (1 << 62).to_bytes(8, "little") + whole[8:]
    yield "cut off", whole[:8] + b"{" * size + rest


def test_other_files_are_refused_and_the_state_stays(
    library: TrainingLibrary, tmp_path: Path
) -> None:
    trainer = _trainer()
    name = next(name for name in trainer.state if name.endswith("weight"))
    place = tmp_path / "good.state"
    _c_steps(library, _batches()[:2])
    assert library.save(place) == Status.OK
    before = library.state(trainer.state)
    for text, data in _damaged(place.read_bytes(), name):
        bad = tmp_path / "bad.state"
        bad.write_bytes(data)
        assert library.load(bad) == Status.CHECKPOINT, text
        assert text in library.message
    assert library.load(tmp_path / "none.state") == Status.CHECKPOINT
    assert "No such file" in library.message
    other = _trainer(optimizer=SGD(0.1))
    other.save(tmp_path / "sgd.state")
    assert library.load(tmp_path / "sgd.state") == Status.CHECKPOINT
    assert "of another network or optimizer" in library.message
    assert library.steps == 2
    for name, array in library.state(trainer.state).items():
        np.testing.assert_array_equal(array, before[name])
    assert library.load(place) == Status.OK
    # Blanks and another order of keys are JSON, too.
    size = int.from_bytes(place.read_bytes()[:8], "little")
    header = json.loads(place.read_bytes()[8 : 8 + size])
    reordered = json.dumps(dict(sorted(header.items(), reverse=True)), indent=2).encode()
    data = len(reordered).to_bytes(8, "little") + reordered + place.read_bytes()[8 + size :]
    (tmp_path / "reordered.state").write_bytes(data)
    assert library.load(tmp_path / "reordered.state") == Status.OK, library.message
    # Of no file is anything left in memory, or open.
    opened = {os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()}
    assert not any(path.endswith(".state") for path in opened)
    assert ".state" not in Path("/proc/self/maps").read_text()


def test_a_loss_that_is_not_finite_changes_nothing(library: TrainingLibrary) -> None:
    trainer, (x, label) = _trainer(), _batches()[0]
    _c_steps(library, _batches()[:1])
    before = library.state(trainer.state)
    bad = x.copy()
    bad[3, 0, 2, 2] = np.nan
    status, (loss, _) = library.step([bad, label], RATE)
    assert status == Status.NOT_FINITE and np.isnan(loss)
    assert "nothing was updated" in library.message
    assert library.steps == 1
    for name, array in library.state(trainer.state).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_wrong_arguments_are_told(file: Path) -> None:
    library, (x, label) = TrainingLibrary(file), _batches()[0]
    assert library.step([x, label], RATE)[0] == Status.INVALID_ARGUMENT
    assert "call init first" in library.message
    assert library.function("parameter")(library.handle, b"x") is None
    assert library.init(4) == Status.OK
    assert library.function("parameter")(library.handle, b"x") is None
    status, _ = library.step([x, label], RATE)
    assert status == Status.WORKSPACE_TOO_SMALL, library.message
    assert library.call("reserve", (ctypes.c_int64 * 1)(24)) == Status.OK
    assert library.step([x, label], RATE)[0] == Status.OK
    for rate in (math.nan, math.inf, -1.0):
        assert library.step([x, label], rate)[0] == Status.INVALID_ARGUMENT
        assert "learning rate" in library.message
    assert library.step([x, label], 0.0)[0] == Status.OK
    assert library.init(-1) == Status.INVALID_ARGUMENT
    assert library.call("train_step", None, None, ctypes.c_double(1), None) == 1
    assert library.function("train_step")(None, None, None, ctypes.c_double(1), None)
    status, _ = library.step([x, np.full(len(x), 9)], RATE)
    assert status == Status.NOT_FINITE
    assert library.step([x[:0], label[:0]], RATE)[0] == Status.NOT_FINITE
    status, (loss, _) = library.evaluate([x, np.full(len(x), 9)])
    assert status == Status.OK and np.isnan(loss)
    library.close()


def test_a_library_takes_up_where_the_trainer_stands(tmp_path: Path) -> None:
    trainer, batches = _trainer(), _batches()
    _steps(trainer, batches[:2])
    files = trainer.export(tmp_path / "later.so", placement="beside")
    assert TrainingLibrary(files[0]).created == Status.WEIGHTS
    library = TrainingLibrary(files[0], weights=str(files[2]))
    assert library.init(24) == Status.OK and library.steps == 2
    assert _c_steps(library, batches[2:]) == _steps(trainer, batches[2:])
    library.close()


def test_statistics_stay_behind(tmp_path: Path) -> None:
    trainer, batches = _trainer(statistics=True), _batches()
    library = TrainingLibrary(trainer.export(tmp_path / "plain.so")[0])
    assert library.init(24) == Status.OK
    # Without them other things fuse: the last bits may differ.
    np.testing.assert_allclose(_c_steps(library, batches), _steps(trainer, batches), rtol=1e-5)
    library.close()
    with pytest.raises(CompileError, match="no suffix"):
        trainer.export(tmp_path / "later.txt")


def test_a_static_library_exports_the_interface_and_nothing_else(tmp_path: Path) -> None:
    made = _trainer().export(tmp_path / "net.o", name="my net", target="aarch64-linux")
    data = made[0].read_bytes()
    assert elf_machine(data) == "aarch64"
    defined = [s.name for s in read_symbols(data, SYMBOL_TABLE) if s.is_global and s.is_defined]
    assert sorted(defined) == [f"my_net_{name}" for name in EXPORTS]
    header = made[1].read_text()
    for name in EXPORTS:
        assert f" *my_net_{name}(" in header or f" my_net_{name}(" in header


def test_the_caller_s_threads_do_it_as_well(file: Path, library: TrainingLibrary) -> None:
    calls: list[int] = []
    task = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)

    def parallel_for(_user: int, count: int, work: Any, argument: int) -> None:
        calls.append(count)
        for index in reversed(range(count)):
            work(argument, index)

    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, task, ctypes.c_void_p)
    hook = kind(parallel_for)
    place = ctypes.cast(hook, ctypes.c_void_p).value
    other = TrainingLibrary(file, 2, parallel_for=place)
    assert other.init(24) == Status.OK
    assert _c_steps(other, _batches()) == _c_steps(library, _batches())
    assert calls
    other.close()


def test_nothing_is_allocated_after_init(file: Path) -> None:
    """Counts what the library asks its caller for, on two threads; in the end all is returned."""
    asked: list[int] = []
    returned: list[int] = []
    libc = ctypes.CDLL(None)
    libc.aligned_alloc.restype = ctypes.c_void_p

    def allocate(_user: int, size: int, alignment: int) -> int | None:
        asked.append(size)
        found: int = libc.aligned_alloc(alignment, -(-size // alignment) * alignment)
        return found

    def release(_user: int, memory: int, size: int) -> None:
        returned.append(size)
        libc.free(ctypes.c_void_p(memory))

    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    hooks = (
        ctypes.CFUNCTYPE(pointer, pointer, size, size)(allocate),
        ctypes.CFUNCTYPE(None, pointer, pointer, size)(release),
    )
    places = [ctypes.cast(hook, pointer).value for hook in hooks]
    library = TrainingLibrary(file, 2, allocate=places[0], release=places[1])
    assert library.init(24) == Status.OK
    before = len(asked)
    assert before >= 3  # context, state, arena; and the pool
    batches = _batches()
    _c_steps(library, batches)
    assert library.evaluate(batches[0])[0] == Status.OK
    assert library.predict(batches[0][:1], [np.zeros((24, 4), np.float32)]) == Status.OK
    assert len(asked) == before
    library.close()
    assert sorted(returned) == sorted(asked)


def test_python_says_that_it_is_no_model(file: Path) -> None:
    with pytest.raises(ArtifactError, match="trains 'small_net'"):
        load(file)
