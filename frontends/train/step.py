"""One training step as one graph: forward, loss, backward, regularization and optimizer.

Inputs: what the network and the loss want of a batch, the learning rate and the number of the step,
then the state: parameters, running statistics, and the optimizer's slots. Outputs: the loss, the
metrics, and what of the state changes, in the same order, to be written over the state before: the
state is in memory once. Where the loss is not finite, nothing of it is written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array, TensorType, f32, f64, i64
from bessemer.compiler.ops.composite.composite import binary, broadcast_to, cast
from bessemer.compiler.ops.composite.composite_reduce import sum_square
from bessemer.compiler.passes.differentiation.differentiate import gradients
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.builder.trace import Parameter, Trace
from bessemer.frontends.settings import require_not_negative
from bessemer.frontends.train.accumulation import Accumulation
from bessemer.frontends.train.averages import check_average, with_averages
from bessemer.frontends.train.optimizers import Update
from bessemer.frontends.train.parameter_groups import (
    Optimizers,
    ParameterGroups,
    parameter_groups,
)
from bessemer.frontends.train.statistics import activation_statistics, gradient_sizes

LossFunction = Callable[..., Tensor]
Loss = LossFunction | Mapping[str, LossFunction]
"""One loss for all parameters; or losses by patterns of names ("generator.*"), each for those of
its own. Parameters under no pattern stay as they are."""
Metrics = Mapping[str, Callable[..., Tensor]]
STEP, RATE = "step", "learning rate"


@dataclass(frozen=True)
class Regularization:
    """What is added to the loss for weights (parameters of two axes or more).

    `l1` times the sum of magnitudes, and `l2` / 2 times the sum of squares. `clip_norm` bounds the
    norm of all gradients of a loss together, `clip_value` each element of them; 0 does not.
    """

    l1: float = 0.0
    l2: float = 0.0
    clip_norm: float = 0.0
    clip_value: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative(self, "l1", "l2", "clip_norm", "clip_value")


@dataclass(frozen=True, eq=False)
class StepGraph:
    """The graph of a step, with the names of its parts. `state` are (name, type) in order;
    `updated` are the names of those that are outputs, too. `parts` are what nodes are for, in
    their order: names, and the position of the first node behind. `limits` are of integer inputs:
    the least, and the number behind the greatest.

    With statistics, two outputs follow the state: the gradients' root mean squares [parameters],
    and of each layer's activations the mean, the deviation and the share of zeros [layers, 3], f32.
    """

    graph: Graph
    batch: tuple[str, ...]
    metrics: tuple[str, ...]
    state: tuple[tuple[str, TensorType], ...]
    parameters: Mapping[str, Parameter]
    parts: tuple[tuple[str, int], ...] = ()
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    updated: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def batch_inputs(self) -> list[Value]:
        """What the graph reads of a batch."""
        return [value for value in self.graph.inputs if value.name in self.batch]

    def numbers(self, found: Sequence[Array]) -> dict[str, float]:
        """The loss and the metrics among the outputs of a run."""
        names = ("loss", *self.metrics)
        return {name: float(np.reshape(array, -1)[0]) for name, array in zip(names, found)}


def training_graph(
    network: Network,
    loss: Loss,
    targets: Sequence[Input],
    optimizer: Optimizers,
    metrics: Metrics,
    regularization: Regularization,
    statistics: bool = False,
    accumulation: int = 1,
    average: float = 0.0,
) -> StepGraph:
    """A step of training. `loss` and the metrics are called with the outputs, then the targets.
    See Trainer for the other arguments."""
    check_average(average)
    optimizers = parameter_groups(optimizer)
    written = _write(network, targets, loss, metrics, is_training=True)
    b, parameters = written.trace.builder, written.trace.parameters
    trainable: dict[str, Value] = {}
    found: list[Value] = []
    sums = Accumulation(b, written.trace.step or written.loss.value, accumulation)
    layers = {name: x for name, x in written.trace.results.items() if x.type.dtype.is_float}
    for part, own in _shares(written, optimizers):
        values = list(own.values())
        total = _regularized(b, part.value, values, regularization)
        written.end_part("regularization")
        wanted = gradients(b, total, values)
        written.end_part("backward pass")
        found += _clipped(b, sums.mean(dict(zip(own, wanted, strict=True))), regularization)
        written.end_part("clipping")
        trainable |= own
    slots, after = _updated(b, optimizers, trainable, found, written.rate, sums.move)
    if average:
        slots, after = with_averages(b, trainable, slots, after, sums.move, average)
    state = {name: parameter.value for name, parameter in parameters.items()} | slots | sums.state
    after = {name: sums.moved(state[name], value) for name, value in after.items()}
    written.end_part("optimizer")
    after = written.trace.updates | after | sums.after
    after = {name: after[name] for name in state if after.get(name, state[name]) is not state[name]}
    results = list(after.values())
    if statistics:
        results.append(gradient_sizes(b, found))
        results.append(activation_statistics(b, list(layers.values())))
        written.end_part("statistics")
    made = _in_place(_finished(written, state, results), tuple(after))
    return replace(made, moved=tuple(trainable), layers=tuple(layers)) if statistics else made


def _updated(
    b: GraphBuilder,
    optimizers: ParameterGroups,
    trainable: Mapping[str, Value],
    found: Sequence[Value],
    rate: Value,
    step: Value,
) -> tuple[dict[str, Value], dict[str, Value]]:
    """The optimizer's slots, which are inputs of the step; and the new parameters and slots, given
    the gradients `found`."""
    slots: dict[str, Value] = {}
    after: dict[str, Value] = {}
    for (name, value), gradient in zip(trainable.items(), found, strict=True):
        optimizer = optimizers.of(name)
        assert optimizer is not None, name
        share = optimizers.rate_share(optimizer)
        own_rate = rate if share == 1 else binary(b, "mul", rate, share)
        own = {slot: b.input(f"{name}.{slot}", value.type) for slot in optimizer.slots}
        slots |= {f"{name}.{slot}": given for slot, given in own.items()}
        with b.source(name):
            after[name], new = optimizer.update(Update(b, value, gradient, own, own_rate, step))
        after |= {f"{name}.{slot}": moved for slot, moved in new.items()}
    return slots, after


def _in_place(made: StepGraph, updated: tuple[str, ...]) -> StepGraph:
    """The step with its results written over the state, if the loss is finite."""
    first = len(made.graph.inputs) - len(made.state)
    places = {name: first + position for position, (name, _) in enumerate(made.state)}
    start = 1 + len(made.metrics)
    pairs = tuple((start + k, places[name]) for k, name in enumerate(updated))
    names = made.graph.output_names
    names = (*names[:start], *updated, *names[start + len(updated) :])
    graph = replace(made.graph, output_names=names, updates=pairs, finite=(0,))
    return replace(made, graph=graph, updated=updated)


def evaluation_graph(
    network: Network, loss: Loss, targets: Sequence[Input], metrics: Metrics
) -> StepGraph:
    """Loss and metrics of a batch, with nothing of training, then the network's outputs."""
    written = _write(network, targets, loss, metrics, is_training=False)
    state = {name: p.value for name, p in written.trace.parameters.items()}
    return _finished(written, state, [tensor.value for tensor in written.outputs])


def _shares(
    written: _Written, optimizers: ParameterGroups
) -> list[tuple[Tensor, dict[str, Value]]]:
    """Each loss, with the parameters that it moves."""
    left = {name: p.value for name, p in written.trace.parameters.items() if p.trainable}
    optimizers.check(left)
    left = {name: value for name, value in left.items() if optimizers.of(name)}
    result = []
    for pattern, part in written.parts.items():
        own = {name: left.pop(name) for name in list(left) if fnmatchcase(name, pattern)}
        if not own:
            raise CompileError(f"The loss for {pattern} has no parameter of its own to move.")
        result.append((part, own))
    return result


@dataclass(frozen=True, eq=False)
class _Written:
    """A network and its loss, being written."""

    trace: Trace
    batch: tuple[str, ...]
    rate: Value
    outputs: tuple[Tensor, ...]
    loss: Tensor
    parts: dict[str, Tensor]
    metrics: dict[str, Tensor]
    ends: list[tuple[str, int]]

    def end_part(self, name: str) -> None:
        """What has been written since the last part is for this."""
        self.ends.append((name, len(self.trace.builder.nodes)))


def _write(
    network: Network, targets: Sequence[Input], loss: Loss, metrics: Metrics, is_training: bool
) -> _Written:
    trace = Trace(network.name, network.channels_last, network.forward)
    given = (*network.inputs, *targets)
    names = [each.name for each in given]
    if len({*names, STEP, RATE}) != len(names) + 2:
        raise CompileError(f"Two inputs have one name, in {', '.join((*names, STEP, RATE))}.")
    tensors = [Tensor(trace.builder.input(each.name, each.type), trace) for each in given]
    rate = Value(TensorType(f64, ()), RATE)
    if is_training:
        rate = trace.builder.input(RATE, TensorType(f64, ()))
        trace.step = trace.builder.input(STEP, TensorType(i64, ()))
    result: Any = network.forward(*tensors[: len(network.inputs)])
    if isinstance(result, Mapping):
        result = tuple(result.values())
    outputs = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    ends = [("forward pass", len(trace.builder.nodes))]
    wanted = tensors[len(network.inputs) :]
    parts: dict[str, Tensor] = {}
    for pattern, function in (loss if isinstance(loss, Mapping) else {"*": loss}).items():
        if not callable(function):
            raise CompileError(f"The loss is {function!r}; give a function, such as cross_entropy.")
        part: object = _called("loss", function, outputs, wanted)
        if not isinstance(part, Tensor) or part.type.numel != 1:
            raise CompileError(f"The loss is {part!r}; it must be one number. Take its mean.")
        parts[pattern] = part.reshape(())
    total = sum(list(parts.values())[1:], start=next(iter(parts.values())))
    ends.append(("loss", len(trace.builder.nodes)))
    measured: dict[str, Any] = {
        name: _called(f"metric {name}", metric, outputs, wanted) for name, metric in metrics.items()
    }
    for name, number in measured.items():
        if name == "loss" or not isinstance(number, Tensor) or number.type.numel != 1:
            what = f"The metric {name} is {number!r}; it must be one number. Take its mean."
            raise CompileError(what if name != "loss" else "A metric cannot take the name loss.")
    ends.append(("metrics", len(trace.builder.nodes)))
    return _Written(trace, tuple(names), rate, outputs, total, parts, measured, ends)


def _called(
    what: str, function: Callable[..., Any], outputs: Sequence[Tensor], targets: Sequence[Tensor]
) -> Any:
    """The function of the outputs and the targets; CompileError where it takes other arguments."""
    try:
        inspect.signature(function).bind(*outputs, *targets)
    except ValueError:
        pass  # what is not written in Python may not say what it takes
    except TypeError as error:
        counts = f"{len(outputs)} outputs of the network and {len(targets)} targets"
        raise CompileError(f"The {what} is called with {counts}: {error}.") from None
    return function(*outputs, *targets)


def _finished(written: _Written, state: Mapping[str, Value], results: Sequence[Value]) -> StepGraph:
    b = written.trace.builder
    for parameter in written.trace.parameters.values():
        del b.constants[parameter.value]
        b.inputs.append(parameter.value)
    order = {value: place for place, value in enumerate(state.values())}
    b.inputs.sort(key=lambda value: order.get(value, -1))
    values = [written.loss.value, *(tensor.value for tensor in written.metrics.values()), *results]
    names = ["loss", *written.metrics, *(f"result{k}" for k in range(len(results)))]
    return StepGraph(
        b.finish(values, names),
        written.batch,
        tuple(written.metrics),
        tuple((name, value.type) for name, value in state.items()),
        dict(written.trace.parameters),
        tuple(written.ends),
        {v.name: limit for v, limit in written.trace.limits.items() if v.name in written.batch},
    )


def _regularized(
    b: GraphBuilder, loss: Value, parameters: Sequence[Value], given: Regularization
) -> Value:
    for value in parameters:
        if value.type.rank < 2:
            continue
        axes, dtype = tuple(range(value.type.rank)), loss.type.dtype
        if given.l1:
            size = cast(b, b.apply("reduce_sum", b.apply("abs", value), axes=axes), dtype)
            loss = b.apply("add", loss, binary(b, "mul", size, given.l1))
        if given.l2:
            size = cast(b, sum_square(b, value, axes), dtype)
            loss = b.apply("add", loss, binary(b, "mul", size, given.l2 / 2))
    return loss


def _clipped(b: GraphBuilder, found: list[Value], given: Regularization) -> list[Value]:
    if given.clip_value:
        bounds = {"minimum": -given.clip_value, "maximum": given.clip_value}
        found = [b.apply("clip", value, **bounds) for value in found]
    if not given.clip_norm or not found:
        return found
    wide = f64 if any(value.type.dtype is f64 for value in found) else f32
    squares = [cast(b, sum_square(b, value, range(value.type.rank)), wide) for value in found]
    total = squares[0]
    for square in squares[1:]:
        total = b.apply("add", total, square)
    # As torch has it: an epsilon, and never longer than it was.
    norm = binary(b, "add", b.apply("sqrt", total), 1e-6)
    factor = b.apply("clip", binary(b, "div", given.clip_norm, norm), minimum=0.0, maximum=1.0)
    return [
        b.apply("mul", value, broadcast_to(b, cast(b, factor, value.type.dtype), value.type.shape))
        for value in found
    ]
