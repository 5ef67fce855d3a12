"""Training within a budget of memory: the same numbers, from fewer bytes."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import networkx
import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.compiler.fit_memory import Fitted, fit_memory
from bessemer.compiler.ir.graph import Graph, Node
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.program import MemoryPlan
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ir.verifier.verify_graph import verify_graph
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.schedule.memory.live_memory import live_memory
from bessemer.compiler.schedule.memory.minimum_cut import minimum_cut
from bessemer.compiler.schedule.memory.order_for_memory import order_for_memory
from bessemer.compiler.schedule.memory.recompute import Planner
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends import zoo
from bessemer.frontends.builder import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Residual,
    Sequential,
    gelu,
    relu,
    tanh,
)
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.byte_count import byte_count
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.step import Regularization, StepGraph, training_graph
from bessemer.frontends.train.trainer import Trainer
from tests.command_line import run_command

BATCH = 8


def _perceptron() -> Network:
    layers = [Dense(32, relu if k % 2 else gelu) for k in range(7)]
    return Network(Sequential(*layers, Dense(5)), Input("x", (256, 12)), outputs=["y"])


def _dropping() -> Network:
    chain = Sequential(
        Conv(6, 3, padding=1), relu, Dropout(0.4), Conv(6, 3, padding=1), relu, Dropout(0.2),
        Conv(6, 3, padding=1), relu, Flatten(), Dense(20, relu), Dropout(0.3), Dense(5),
    )  # fmt: skip
    return Network(chain, Input("x", (BATCH, 2, 8, 8)), outputs=["y"])


def _residual() -> Network:
    return _image_network(BATCH)


def _image_network(batch: int | str) -> Network:
    """Residual blocks with batch normalization."""
    blocks = [
        Residual(Sequential(Conv(6, 3, padding=1), BatchNorm(), relu, Conv(6, 3, padding=1)))
        for _ in range(3)
    ]
    chain = Sequential(Conv(6, 3, padding=1), BatchNorm(), relu, *blocks, BatchNorm(), Flatten())
    return Network(Sequential(chain, Dense(5)), Input("x", (batch, 3, 8, 8)), outputs=["y"])


def _transformer() -> Network:
    network = zoo.causal_transformer(31, positions=16, features=16, heads=2, layers=2)
    return network.with_dims({"batch": 4, "time": 16})


def _lstm() -> Network:
    network = zoo.lstm_text(31, 5, features=8, hidden=16, layers=4, whole=True)
    return network.with_dims({"batch": BATCH, "time": 24})


NETWORKS: dict[str, tuple[Callable[[], Network], float]] = {
    "perceptron": (_perceptron, 0.7),
    "dropping": (_dropping, 0.95),
    "residual": (_residual, 0.85),
    "transformer": (_transformer, 0.7),
    "lstm": (_lstm, 0.9),
}
"""Small networks, and the share of the arena (as it is without a budget) that each is given."""


def _step(network: Network) -> StepGraph:
    labels = network.structure.outputs[0].type.static_shape[:-1]
    target = Input("label", labels, "i64")
    optimizer = SGD(0.05, momentum=0.9)
    return training_graph(network, cross_entropy, [target], optimizer, {}, Regularization())


def _inputs(network: Network, step: StepGraph) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    arrays = network.arrays()
    found: dict[str, Array] = {"learning rate": np.array(0.05), "step": np.array(4, np.int64)}
    for value in step.graph.inputs:
        shape, dtype = value.type.static_shape, value.type.dtype.numpy
        if value.name in arrays:
            found[value.name] = arrays[value.name]
        elif value.name not in found:
            is_integer = np.dtype(dtype).kind == "i"
            made = rng.integers(0, 5, shape) if is_integer else rng.standard_normal(shape)
            found[value.name] = made.astype(dtype)
    return found


@cache
def _made(name: str) -> tuple[Network, StepGraph]:
    """A network and a step of its training."""
    network = NETWORKS[name][0]()
    return network, _step(network)


@cache
def _canonical(name: str) -> Graph:
    """The step's graph as the schedule gets it."""
    graph = _made(name)[1].graph
    for step in passes_of(Options(), host_target()):
        graph = step(graph)
    return graph


@cache
def _free(name: str) -> Fitted:
    """The plan without a budget."""
    return fit_memory(_canonical(name), Options(), host_target())


def _arena(plan: MemoryPlan) -> int:
    assert isinstance(plan.size, int)
    return plan.size


def _named(graph: Graph, found: list[Array]) -> Mapping[str, Array]:
    return dict(zip(graph.output_names, found, strict=True))


SLOW = {"transformer", "residual", "dropping"}
"""Networks that take seconds to be compiled within a budget."""


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_computed_again_is_the_same(name: str) -> None:
    """By the operators' references: not a bit differs, for any budget."""
    network, step = _made(name)
    graph, share = _canonical(name), NETWORKS[name][1]
    inputs = _inputs(network, step)
    wanted = run_graph(graph, inputs)
    start = live_memory(graph).peak()
    most: int | None = None
    for part in (None, share, 0.01):
        found = Planner(graph).plan(None if part is None else int(part * start))
        verify_graph(found.graph)
        assert found.peak == live_memory(found.graph).peak()
        most = found.peak if most is None else most
        assert found.peak <= most
        for expected, got in zip(wanted, run_graph(found.graph, inputs), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert found.again and found.operations > 0


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in NETWORKS]
)
def test_a_budget_is_kept(name: str) -> None:
    """The arena is within it, and loss and state are those of the operators' references."""
    network, step = _made(name)
    inputs = _inputs(network, step)
    wanted = _named(step.graph, run_graph(step.graph, inputs))
    free = _free(name)
    budget = int(NETWORKS[name][1] * _arena(free.plan))
    made = fit_memory(_canonical(name), Options(memory=budget), host_target())
    assert _arena(made.plan) <= budget
    assert made.choice is not None and free.choice is not None
    assert made.choice.operations > free.choice.operations
    model = bessemer.compile(step.graph, memory=budget, cache=False)
    got = _named(step.graph, model.run(inputs))
    for key, expected in wanted.items():
        scale = np.abs(expected).max() + 1e-3
        np.testing.assert_allclose(got[key] / scale, expected / scale, atol=2e-4, err_msg=key)


def test_training_with_a_budget_goes_the_same_way() -> None:
    """Three steps, then a smaller batch: losses and running statistics as without a budget."""
    rng = np.random.default_rng(0)
    data: dict[str, Array] = {
        "x": rng.standard_normal((200, 12)).astype(np.float32),
        "label": rng.integers(0, 5, 200),
    }
    layers = [Sequential(Dense(32, gelu), BatchNorm()) for _ in range(4)]
    network = Network(Sequential(*layers, Dense(5)), Input("x", ("batch", 12)), outputs=["y"])
    target = Input("label", ("batch",), "i64")
    free = Trainer(network, cross_entropy, [target], optimizer=SGD(0.02))
    budget = free.plan(data).arena * 4 // 5
    small = Trainer(network, cross_entropy, [target], optimizer=SGD(0.02), memory=budget)
    trainers = [free, small]
    plans = [trainer.plan(data) for trainer in trainers]
    assert plans[1].arena <= budget < plans[0].arena
    assert plans[0].in_place == plans[0].state
    assert sum(size for _, size in plans[1].kept) < sum(size for _, size in plans[0].kept)
    for part in (data, data, {name: array[:50] for name, array in data.items()}):
        losses = [trainer.step(part)["loss"] for trainer in trainers]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, array in trainers[0].state.items():
        if "running" in name:
            np.testing.assert_allclose(trainers[1].state[name], array, rtol=1e-3, atol=1e-5)


def test_the_smallest_plan_is_no_larger_than_the_one_without_a_budget() -> None:
    """Where nothing can be computed again for less, at a fraction of what is needed."""
    network = zoo.mlp(64, [128] * 6, 10)
    rows: dict[str, Array] = {"x": np.zeros((64, 64), np.float32), "label": np.zeros(64, np.int64)}
    target = [Input("label", ("batch",), "i64")]
    free = Trainer(network, cross_entropy, target).plan(rows).arena
    with pytest.raises(CompileError, match="too little") as caught:
        Trainer(network, cross_entropy, target, memory=free * 4 // 5).plan(rows)
    assert int(str(caught.value).split(" takes ")[1].split()[0]) <= free


def test_what_fits_nowhere_is_told() -> None:
    graph = _step(_perceptron()).graph
    with pytest.raises(CompileError, match=r"too little: the smallest plan found takes \d+ bytes"):
        bessemer.compile(graph, memory=1 << 10)
    open_batch = zoo.mlp(8, (8,), 3).graph
    with pytest.raises(CompileError, match="give sizes"):
        bessemer.compile(open_batch, memory="1M")
    with pytest.raises(CompileError, match="not a number of bytes"):
        bessemer.compile(graph, memory="much")


def test_bytes_as_people_write_them() -> None:
    assert [byte_count(text) for text in (7, "7", "2K", "1.5 MiB", "1g")] == [
        7, 7, 2048, 3 << 19, 1 << 30,
    ]  # fmt: skip
    for wrong in ("", "-1", "0", "1T", "x", True):
        with pytest.raises(CompileError):
            byte_count(wrong)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_order_is_one_of_computation(name: str) -> None:
    """Everything after what it reads, all of it once, with no more alive at once than before."""
    graph = _canonical(name)
    ordered = order_for_memory(graph)
    verify_graph(ordered)
    assert set(ordered.nodes) == set(graph.nodes)
    assert live_memory(ordered).peak() <= live_memory(graph).peak()
    place = {node: number for number, node in enumerate(ordered.nodes)}
    for output, given in graph.updates:
        (writer,) = (n for n in graph.nodes if graph.outputs[output] in n.outputs)
        readers = [n for n in graph.nodes if graph.inputs[given] in n.inputs and n is not writer]
        below = _reached(graph, writer)
        assert all(place[node] < place[writer] for node in readers if not _feeds(node, below))


def _reached(graph: Graph, start: Node) -> set[Node]:
    """A node and what depends on it."""
    found = {start}
    for node in graph.nodes:
        if any(value in source.outputs for source in found for value in node.inputs):
            found.add(node)
    return found


def _feeds(node: Node, below: set[Node]) -> bool:
    """Whether a reader comes after the update anyway, or is a part of its kernel."""
    return node in below or node.operator.is_view or node.operator.name in ("mul", "sub", "add")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_estimate_is_near_the_plan(name: str) -> None:
    made = _free(name)
    assert made.choice is not None
    assert made.choice.peak == pytest.approx(_arena(made.plan), rel=0.25)


def test_the_minimum_cut_is_that_of_networkx() -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        count = int(rng.integers(4, 14))
        prices = {k: int(rng.integers(1, 30)) for k in range(count)}
        links = [(a, b) for a in range(count) for b in range(a + 1, count) if rng.random() < 0.3]
        sources, sinks = [0, 1], [count - 2, count - 1]
        cut = minimum_cut(prices, links, sources, sinks)
        network = networkx.DiGraph()
        for place, price in prices.items():
            network.add_edge((place, 0), (place, 1), capacity=price)
        network.add_edges_from(((a, 1), (b, 0)) for a, b in links)
        network.add_edges_from(("from", (place, 0)) for place in sources)
        network.add_edges_from(((place, 1), "to") for place in sinks)
        least, _ = networkx.minimum_cut(network, "from", "to")
        assert sum(prices[place] for place in cut) == least
        network.remove_edges_from(((place, 0), (place, 1)) for place in cut)
        assert not networkx.has_path(network, "from", "to")


def test_a_long_chain_is_computed_again_piece_by_piece() -> None:
    """From its beginning, each of 260 values would be computed by all those before it."""
    chain = Sequential(Dense(16), *(tanh,) * 260, Dense(5))
    graph = _step(Network(chain, Input("x", (8, 16)), outputs=["y"])).graph
    found = Planner(graph).plan(None)
    assert found.again
    assert len(found.graph.nodes) < 2 * len(graph.nodes)


def test_the_command_shows_the_plan(tmp_path: Path) -> None:
    file = tmp_path / "lenet.toml"
    file.write_text(
        '[network]\nzoo = "lenet"\nsize = 16\n[data]\nset = "digits"\nsize = 16\n'
        '[training]\nbatch = 64\nmemory = "64M"\n'
    )
    code, out, _ = run_command("train", file, "--plan", "--json")
    plan = json.loads(out)
    assert code == 0 and 1 << 20 < plan["arena"] < 64 << 20 and plan["kept"]
    assert plan["in_place"] == plan["state"]
    code, out, _ = run_command("train", file, "--plan")
    assert code == 0 and "computed again" in out and "lower bound" in out
    assert ("if nothing were computed again" in out) == bool(plan["again"])
    code, _, err = run_command("train", file, "--plan", "--memory", "10K")
    assert code == 1 and "the smallest plan found takes" in err
