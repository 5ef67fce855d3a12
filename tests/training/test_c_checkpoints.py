"""Where C training libraries write checkpoints: what lies there already, and who else writes."""

import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bessemer.frontends.builder.layers_dense import Dense
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.train import losses
from bessemer.frontends.train.trainer import Trainer
from bessemer.runtime.artifact import Status
from tests.training.training_library import TrainingLibrary


@pytest.fixture(scope="module")
def file(tmp_path_factory: Any) -> Path:
    network = Network(Dense(90), Input("x", ("batch", 20)))
    trainer = Trainer(network, losses.cross_entropy, [Input("label", ("batch",), "i64")])
    return trainer.export(tmp_path_factory.mktemp("library") / "dense.so")[0]


@pytest.fixture
def library(file: Path) -> Iterator[TrainingLibrary]:
    found = TrainingLibrary(file)
    assert found.init(4) == Status.OK
    yield found
    found.close()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    library: TrainingLibrary, tmp_path: Path
) -> None:
    assert library.save(tmp_path / "none" / "c.state") == Status.CHECKPOINT
    assert "cannot be written: No such file" in library.message
    (tmp_path / "folder").mkdir()
    assert library.save(tmp_path / "folder") == Status.CHECKPOINT
    assert os.listdir(tmp_path) == ["folder"]
    assert library.save(tmp_path / ("x" * 5000)) == Status.CHECKPOINT
    assert "too long" in library.message


def test_what_a_killed_process_left_is_written_over(
    library: TrainingLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        library.save(tmp_path / "c.state")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGXFSZ
    (part,) = tmp_path.iterdir()
    with part.open("ab") as file:
        file.write(bytes(1 << 20))  # it had more to write
    assert library.save(tmp_path / "c.state") == Status.OK, library.message
    assert (tmp_path / "c.state").stat().st_size < 1 << 20
    assert os.listdir(tmp_path) == ["c.state"]
    monkeypatch.chdir(tmp_path)
    assert library.save(Path("d.state")) == Status.OK, library.message
    assert Path("c.state").read_bytes() == Path("d.state").read_bytes()
    assert library.load(tmp_path / "c.state") == Status.OK, library.message


def test_what_lies_beside_a_checkpoint_is_not_written_through(
    library: TrainingLibrary, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("not a checkpoint")
    (tmp_path / "c.state.part").symlink_to(other)
    assert library.save(tmp_path / "c.state") == Status.OK, library.message
    assert other.read_text() == "not a checkpoint"
    assert sorted(os.listdir(tmp_path)) == ["c.state", "other"]
    assert not (tmp_path / "c.state").is_symlink()


def test_two_that_write_to_one_place_do_not_meet(library: TrainingLibrary, tmp_path: Path) -> None:
    others = tmp_path / "c.state.part"
    others.write_text("half a checkpoint")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert library.save(tmp_path / "c.state") == Status.OK, library.message
    finally:
        os.close(folder)
    assert others.read_text() == "half a checkpoint"
    assert sorted(os.listdir(tmp_path)) == ["c.state", "c.state.part"]
    assert library.load(tmp_path / "c.state") == Status.OK, library.message
    # Nobody's lock is left.
    assert library.save(tmp_path / "c.state") == Status.OK, library.message
    assert os.listdir(tmp_path) == ["c.state"]
