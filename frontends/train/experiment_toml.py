"""Experiments as TOML files; docs/training.md has every key.

[network]
zoo = "lenet"            # or python = "file.py:function", or onnx = "file.onnx"
size = 16

[data]
set = "digits"           # or file = "train.npz"
size = 16

[training]
loss = "cross_entropy"
metrics = ["accuracy"]
epochs = 20

[optimizer]
name = "adam"
learning_rate = 0.002
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import dtype_of
from bessemer.frontends import zoo
from bessemer.frontends.array_files import read_arrays
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.settings import require_count
from bessemer.frontends.train import losses, metrics, schedules
from bessemer.frontends.train.batches import Augmentation
from bessemer.frontends.train.datasets import digits
from bessemer.frontends.train.experiment import Data, Experiment, errors_of_file, load_module
from bessemer.frontends.train.from_onnx import network_from_onnx
from bessemer.frontends.train.normalization import Normalization
from bessemer.frontends.train.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSProp
from bessemer.frontends.train.schedules import Schedule
from bessemer.frontends.train.step import Regularization
from bessemer.frontends.train.trainer import Trainer

_OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": SGD, "adagrad": Adagrad, "rmsprop": RMSProp, "adam": Adam, "adamw": AdamW,
}  # fmt: skip
_LOSSES: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        losses.mean_squared_error, losses.mean_absolute_error, losses.huber,
        losses.binary_cross_entropy, losses.binary_cross_entropy_of_probabilities,
        losses.cross_entropy, losses.kl_divergence, losses.hinge,
    )
}  # fmt: skip
_METRICS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (metrics.accuracy, metrics.binary_accuracy, metrics.absolute_error)
}
_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    each.__name__: each
    for each in (schedules.steps, schedules.exponential, schedules.cosine, schedules.warm_up)
}
_ZOO: dict[str, Callable[..., Any]] = {name: getattr(zoo, name) for name in zoo.__all__}
_TABLES = (
    "network",
    "data",
    "training",
    "optimizer",
    "schedule",
    "regularization",
    "augmentation",
    "normalization",
)


class _Table:
    """A table of the file; an entry that was not taken from it in the end is an error."""

    def __init__(self, where: str, entries: object) -> None:
        if not isinstance(entries, Mapping):
            raise CompileError(f"{where} is a table, not {entries!r}.")
        self.where = where
        self.entries = dict(entries)

    def take(self, key: str, kind: type[Any], default: Any = None) -> Any:
        """An entry, removed; an integer does for a float."""
        found = self.entries.pop(key, default)
        if kind is float and isinstance(found, int) and not isinstance(found, bool):
            found = float(found)
        if found is not None and (
            not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool)
        ):
            raise CompileError(f"{self.where} {key} = {found!r} is not of type {kind.__name__}.")
        return found

    def called(self, function: Callable[..., Any], **given: Any) -> Any:
        """The function called with all entries that are left."""
        known = inspect.signature(function).parameters
        unknown = [name for name in self.entries if name not in known or name in given]
        if unknown:
            taken = ", ".join(name for name in known if name not in given)
            raise CompileError(f"{self.where} has no {', '.join(unknown)}; it takes {taken}.")
        entries, self.entries = self.entries, {}
        try:
            return function(**entries, **given)
        except TypeError as error:
            raise CompileError(f"{self.where}: {error}") from None

    def close(self) -> None:
        """Raises CompileError for unknown entries."""
        if self.entries:
            raise CompileError(f"{self.where} has no {', '.join(self.entries)}.")


def experiment_of_toml(path: Path) -> Experiment:
    """Reads an experiment; paths in it are seen from its folder. Raises CompileError for a key or
    value that it does not know."""
    try:
        with path.open("rb") as file:
            whole = tomllib.load(file)
    except OSError as error:
        raise CompileError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CompileError(f"{path} is not TOML: {error}") from None
    if unknown := [name for name in whole if name not in _TABLES]:
        raise CompileError(f"{path} has {', '.join(unknown)}; it knows {', '.join(_TABLES)}.")
    tables = {name: _Table(f"{path} [{name}]", whole.get(name, {})) for name in _TABLES}
    try:
        return _experiment(path.parent, tables)
    except CompileError as error:
        text = str(error)
        raise CompileError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _experiment(folder: Path, tables: Mapping[str, _Table]) -> Experiment:
    training = tables["training"]
    seed = training.take("seed", int, 0)
    require_count(training.where, "seed", seed, 0)
    network = _network(folder, tables["network"], seed)
    data, test, validation = _data(folder, tables["data"], seed)
    loss = _chosen(training, "loss", _LOSSES, "cross_entropy")
    if smoothing := training.take("smoothing", float):
        loss = partial(loss, smoothing=smoothing)
    chosen = {
        str(name): _of(_METRICS, name, training) for name in training.take("metrics", list, [])
    }
    trainer = Trainer(
        network,
        loss,
        _targets(network, data),
        optimizer=_optimizers(tables["optimizer"]),
        metrics=chosen,
        regularization=tables["regularization"].called(Regularization),
        schedule=_schedule(tables["schedule"]),
        threads=training.take("threads", int),
        seed=seed,
        memory=_memory(training),
        precision=training.take("precision", str, "float32"),
        normalization=_normalization(tables["normalization"]),
        accumulation=training.take("accumulation", int, 1),
        average=training.take("average", float, 0.0),
    )
    augmentation = None
    if tables["augmentation"].entries:
        augmentation = tables["augmentation"].called(Augmentation)
    made = Experiment(trainer, data, validation, test, augmentation=augmentation)
    numbers = {name: training.take(name, int) for name in ("epochs", "batch", "patience")}
    training.close()
    return replace(made, **{name: value for name, value in numbers.items() if value is not None})


def _optimizers(table: _Table) -> dict[str, Optimizer | None]:
    """The optimizer of each group, which is that of the table but for what the group says, and at
    last the one of all other parameters."""
    function = _chosen(table, "name", _OPTIMIZERS, "adam")
    found: dict[str, Optimizer | None] = {}
    for pattern, own in table.take("groups", dict, {}).items():
        where = f'{table.where} groups "{pattern}"'
        if own == "frozen":
            found[pattern] = None
        else:
            group = _Table(where, own)
            group.entries = table.entries | group.entries
            found[pattern] = group.called(function)
    return found | {"*": table.called(function)}


def _normalization(table: _Table) -> Normalization | None:
    if not table.entries:
        return None
    made: Normalization = table.called(Normalization)
    return made


def _memory(table: _Table) -> int | str:
    """A number of bytes, or text such as "512M"."""
    found = table.entries.pop("memory", 0)
    if isinstance(found, bool) or not isinstance(found, (int, str)):
        raise CompileError(f"{table.where} memory = {found!r} is not a number of bytes.")
    return found


def _of(known: Mapping[str, Any], name: object, table: _Table) -> Any:
    if not isinstance(name, str) or name not in known:
        raise CompileError(f"{table.where}: there is no {name!r}; there are {', '.join(known)}.")
    return known[name]


def _chosen(table: _Table, key: str, known: Mapping[str, Any], default: str) -> Any:
    return _of(known, table.take(key, str, default), table)


def _network(folder: Path, table: _Table, seed: int) -> Network:
    kinds = [kind for kind in ("zoo", "python", "onnx") if kind in table.entries]
    if len(kinds) != 1:
        raise CompileError(f"{table.where} must have exactly one of zoo, python and onnx.")
    weights = table.take("weights", str)
    match kinds[0]:
        case "zoo":
            function = _chosen(table, "zoo", _ZOO, "")
            table.entries.setdefault("seed", seed)
            made = table.called(function)
        case "python":
            made = _network_of_module(folder, table)
        case _:
            table.entries["source"] = folder / table.entries.pop("onnx")
            made = table.called(network_from_onnx)
    if not isinstance(made, Network):
        raise CompileError(f"{table.where}: the function returns {made!r}, not a Network.")
    if weights:
        try:
            made = made.with_arrays(load_file(folder / weights))
        except (OSError, SafetensorError) as error:
            raise CompileError(f"{table.where} weights = {weights!r}: {error}") from None
    return made


def _network_of_module(folder: Path, table: _Table) -> object:
    text = table.take("python", str)
    file, colon, name = text.rpartition(":")
    if not colon:
        raise CompileError(f'{table.where} python = {text!r}; write "file.py:function".')
    found = getattr(load_module(folder / file), name, None)
    if found is None:
        raise CompileError(f"{table.where}: {file} has no {name}.")
    with errors_of_file(folder / file):
        return table.called(found) if callable(found) else found


def _data(folder: Path, table: _Table, seed: int) -> tuple[Data, Data | None, Data | float | None]:
    """What to learn from, to test with, and to validate with."""
    kinds = [kind for kind in ("set", "file") if kind in table.entries]
    if len(kinds) != 1:
        raise CompileError(f"{table.where} must have exactly one of set and file.")
    test: Data | None = None
    if kinds[0] == "set":
        kind = _chosen(table, "set", {"digits": digits}, "")
        data, test = kind(seed, table.take("size", int, 8))
    else:
        data = read_arrays(folder / table.take("file", str))
    if name := table.take("test", str):
        test = read_arrays(folder / name)
    names = table.take("names", dict, {})
    data, test = _renamed(data, names, table), test and _renamed(test, names, table)
    validation = table.entries.pop("validation", None)
    table.close()
    if isinstance(validation, str):
        return data, test, _renamed(read_arrays(folder / validation), names, table)
    if validation is not None and not isinstance(validation, float):
        raise CompileError(
            f"{table.where} validation = {validation!r} is neither a file's name nor a share."
        )
    return data, test, validation


def _renamed(data: Data, names: Mapping[str, str], table: _Table) -> dict[str, Any]:
    """`names`: the network's name for an array, and the file's."""
    if missing := [name for name in names.values() if name not in data]:
        raise CompileError(f"{table.where} has no {', '.join(missing)}; it has {', '.join(data)}.")
    ours = {theirs: name for name, theirs in names.items()}
    return {ours.get(name, name): array for name, array in data.items()}


def _targets(network: Network, data: Data) -> list[Input]:
    """Arrays that are not inputs of the network are what it should say, a row for each."""
    own = {given.name: given for given in network.inputs}
    if missing := [name for name in own if name not in data]:
        raise CompileError(
            f"The data has no {', '.join(missing)}, the network's inputs; it has "
            f"{', '.join(data)}. Tell with data.names = {{ {missing[0]} = ... }}."
        )
    rows = network.inputs[0].shape[0] if network.inputs[0].shape else "batch"
    return [
        Input(name, (rows, *array.shape[1:]), dtype_of(array))
        for name, array in data.items()
        if name not in own
    ]


def _schedule(table: _Table) -> Schedule | None:
    """A table `then` is the schedule after a warm-up."""
    if not table.entries:
        return None
    function = _chosen(table, "name", _SCHEDULES, "")
    if "then" in table.entries:
        table.entries["then"] = _schedule(_Table(f"{table.where} then", table.entries["then"]))
    made: Schedule = table.called(function)
    return made
