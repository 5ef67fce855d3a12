"""Plots of a training, drawn by matplotlib (the extra `train`) into a .png, .svg or .pdf file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bessemer.compiler.errors import CompileError
from bessemer.frontends.train.diagnostics import Sweep
from bessemer.frontends.train.history import History
from bessemer.frontends.train.search import Trial
from bessemer.frontends.train.statistics import Statistics
from bessemer.runtime.whole_file import whole_file


def _figure(title: str, across: str, up: str) -> tuple[Any, Any]:
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise CompileError("Pictures want matplotlib: pip install 'bessemer[train]'.") from None
    # A figure of its own needs no screen, and leaves the caller's plots alone.
    figure = figures.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    """The file appears whole or not at all."""
    try:
        with whole_file(path) as part:
            figure.savefig(part, dpi=120, format=path.suffix.removeprefix(".") or None)
    except ValueError as error:
        raise CompileError(f"{path}: {error}") from None


def draw_history(history: History, path: Path, name: str = "loss") -> None:
    """A number after every epoch, and on validation data, where there is some."""
    figure, axes = _figure("Learning curve", "epoch", name)
    for each in (name, f"validation {name}"):
        if each in history.epochs:
            numbers = history.epochs[each]
            axes.plot(range(1, len(numbers) + 1), numbers, label=each)
    axes.legend()
    _save(figure, path)


def draw_gradients(found: Mapping[str, Statistics], path: Path, pattern: str = "*weight") -> None:
    """The sizes of the weights' gradients from the first layer to the last, a line a network. Norms
    have a weight, too: a pattern for the parameters' names leaves them out."""
    figure, axes = _figure("Gradients of weights", "layer", "root mean square")
    for label, statistics in found.items():
        gradients = statistics.gradients.items()
        sizes = [size for name, size in gradients if fnmatchcase(name, pattern)]
        axes.semilogy(range(1, len(sizes) + 1), sizes, marker="o", label=label)
    axes.legend()
    _save(figure, path)


def draw_sweep(sweep: Sweep, path: Path) -> None:
    """The loss by the learning rate, and where it falls fastest."""
    figure, axes = _figure("Learning rates", "rate", "loss")
    axes.semilogx(sweep.rates, sweep.losses)
    axes.axvline(sweep.steepest, linestyle="--", color="grey")
    _save(figure, path)


def draw_trials(trials: Sequence[Trial], name: str, path: Path, log: bool = False) -> None:
    """The loss of every trial by one of the settings."""
    figure, axes = _figure("Trials", name, "loss")
    axes.scatter([trial.point[name] for trial in trials], [trial.loss for trial in trials])
    if log:
        axes.set_xscale("log")
    _save(figure, path)
