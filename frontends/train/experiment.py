"""An experiment: a trainer, its data, and how long to train; a TOML or Python file describes one.

A Python module has an Experiment called `experiment`, or a function of that name that makes one. A
TOML file is read by experiment_toml.py.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bessemer.compiler.errors import CompileError, InternalError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.train.batches import Augmentation
from bessemer.frontends.train.course import Progress, Report
from bessemer.frontends.train.history import History
from bessemer.frontends.train.trainer import Trainer
from bessemer.runtime.errors import RunError

Data = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Experiment:
    """All that `Trainer.fit` wants. `test` is data that training never sees."""

    trainer: Trainer
    data: Data
    validation: Data | float | None = None
    test: Data | None = None
    epochs: int = 10
    batch: int = 32
    augmentation: Augmentation | None = None
    patience: int = 0

    def run(
        self,
        *,
        epochs: int | None = None,
        checkpoint: Path | None = None,
        every: int = 0,
        report: Report | None = None,
        progress: Progress | None = None,
    ) -> History:
        """Trains, from the checkpoint on if there is one."""
        return self.trainer.fit(
            self.data,
            epochs=self.epochs if epochs is None else epochs,
            batch=self.batch,
            validation=self.validation,
            augmentation=self.augmentation,
            patience=self.patience,
            checkpoint=checkpoint,
            every=every,
            report=report,
            progress=progress,
        )


def experiment_of_module(path: Path) -> Experiment:
    """The experiment that a Python file defines: runs the file."""
    found = getattr(load_module(path), "experiment", None)
    if callable(found):
        with errors_of_file(path):
            found = found()
    if not isinstance(found, Experiment):
        raise CompileError(
            f"{path} has no experiment: it must have an Experiment of that name, or a function of "
            f"that name that returns one, not {type(found).__name__}."
        )
    return found


def load_module(path: Path) -> ModuleType:
    """Runs a Python file as a module of its own; what lies beside it can be imported."""
    if not path.is_file():
        raise CompileError(f"There is no file {path}.")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise CompileError(f"{path} is not a Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.resolve().parent))
    try:
        with errors_of_file(path):
            spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


@contextmanager
def errors_of_file(path: Path) -> Iterator[None]:
    """While code of this Python file runs: what it raises becomes a CompileError, with the line of
    the file. Bessemer's own errors come through."""
    try:
        yield
    except (CompileError, InternalError, RunError):
        raise
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}" if error.filename else str(path)
        raise CompileError(f"{place}: {error.msg}") from None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [each.lineno for each in frames if Path(each.filename) == path.absolute()]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise CompileError(f"{place}: {type(error).__name__}: {error}") from error
