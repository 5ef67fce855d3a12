"""Checks a trainer's arguments: an error says what does not fit, and what would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.train.normalization import Normalization
from bessemer.frontends.train.step import Regularization


def check_arguments(
    network: object,
    targets: object,
    metrics: object,
    regularization: object,
    schedule: object,
    normalization: object,
) -> None:
    """Raises CompileError for an argument of Trainer that is none of its kind."""
    if not isinstance(network, Network):
        raise _wrong("network", network, "a Network")
    if not isinstance(targets, Sequence) or not all(isinstance(one, Input) for one in targets):
        raise _wrong("targets", targets, "a list of Inputs, as [Input('label', ('batch',), 'i64')]")
    if metrics is not None and not (
        isinstance(metrics, Mapping) and all(map(callable, metrics.values()))
    ):
        raise _wrong("metrics", metrics, "functions by their names, as {'accuracy': accuracy}")
    if regularization is not None and not isinstance(regularization, Regularization):
        raise _wrong("regularization", regularization, "one, as Regularization(l2=0.1)")
    if schedule is not None and not callable(schedule):
        raise _wrong("schedule", schedule, "a schedule, as steps(every=10)")
    if normalization is not None and not isinstance(normalization, Normalization):
        raise _wrong("normalization", normalization, "a Normalization")


def _wrong(name: str, given: object, wanted: str) -> CompileError:
    return CompileError(f"Trainer: {name} is {given!r}; it must be {wanted}.")
