"""Places that the run computes: nothing overlaps at any sizes, and little is wasted."""

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.evaluate import define, evaluate_named
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.memory_plan.live_ranges import LiveRange
from bessemer.compiler.memory_plan.plan_memory import plan_memory
from bessemer.compiler.memory_plan.stack_values import Stack, best_stack
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import host_target

N, M = symbol("n"), symbol("m")
KINDS: tuple[Size, ...] = (400, 4 * N, 12 * N * M, 4 * N * N, 4 * M + 8)


@pytest.mark.parametrize("seed", range(20))
def test_values_alive_together_never_overlap_whatever_their_sizes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = [Value(TensorType(f32, (1,))) for _ in range(30)]
    starts = rng.integers(0, 40, len(values))
    ranges = {v: LiveRange(int(s), int(s + rng.integers(0, 12))) for v, s in zip(values, starts)}
    sizes = {v: KINDS[rng.integers(len(KINDS))] for v in values}
    example = [(v, evaluate_named(sizes[v], {"n": 64, "m": 64})) for v in values]
    stack, waste = best_stack([example], ranges, 64)
    assert waste < 1.5
    definitions, offsets, end = stack.places(sizes)
    for at in ({"n": 1, "m": 900}, {"n": 64, "m": 64}, {"n": 300, "m": 0}):
        found = define(at, definitions)
        number = {v: evaluate_named(size, at) for v, size in sizes.items()}
        place = {v: evaluate_named(offset, found) for v, offset in offsets.items()}
        assert all(offset % 64 == 0 for offset in place.values())
        last = max(place[v] + -(-number[v] // 64) * 64 for v in values)
        assert last == evaluate_named(end, found) == stack.height(number)
        for v in values:
            for w in values:
                meet = ranges[v].first <= ranges[w].last and ranges[w].first <= ranges[v].last
                if v is not w and meet and number[v] and number[w]:
                    assert place[v] + number[v] <= place[w] or place[w] + number[w] <= place[v]


@pytest.mark.parametrize("seed", range(5))
def test_of_several_plans_the_one_is_taken_whose_worst_case_is_best(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = [Value(TensorType(f32, (1,))) for _ in range(30)]
    starts = rng.integers(0, 40, len(values))
    ranges = {v: LiveRange(int(s), int(s + rng.integers(0, 12))) for v, s in zip(values, starts)}
    examples = [[(v, int(rng.integers(0, 2000))) for v in values] for _ in range(4)]

    def worst(places: Stack) -> float:
        """By the largest sum of bytes alive at a step."""
        found = []
        for example in examples:
            steps = range(60)
            alive = [
                sum(size for v, size in example if ranges[v].first <= step <= ranges[v].last)
                for step in steps
            ]
            found.append(places.height(dict(example)) / max(alive))
        return max(found)

    stack, waste = best_stack(examples, ranges, 64)
    others = [worst(best_stack([example], ranges, 64)[0]) for example in examples]
    assert waste == worst(stack) == min(others) < max(others)


@pytest.mark.parametrize("seed", range(10))
def test_a_value_names_only_those_right_below_it(seed: int) -> None:
    """What follows by way of another is left out: the stack is a transitive reduction."""
    rng = np.random.default_rng(seed)
    values = [Value(TensorType(f32, (1,))) for _ in range(40)]
    starts = rng.integers(0, 30, len(values))
    ranges = {v: LiveRange(int(s), int(s + rng.integers(0, 20))) for v, s in zip(values, starts)}
    example = [(v, int(rng.integers(1, 9)) * 64) for v in values]
    stack, _ = best_stack([example], ranges, 64)
    order = [*stack.below]
    all_pairs = {
        (upper, lower)
        for place, upper in enumerate(order)
        for lower in order[:place]
        if ranges[upper].first <= ranges[lower].last and ranges[lower].first <= ranges[upper].last
    }
    wanted = {
        (upper, lower)
        for upper, lower in all_pairs
        if not any((upper, other) in all_pairs and (other, lower) in all_pairs for other in order)
    }
    assert {(upper, lower) for upper, under in stack.below.items() for lower in under} == wanted
    assert set(stack.tops) == {*order} - {lower for _, lower in all_pairs}


def test_a_thousand_ends_are_planned_and_compared_again() -> None:
    """Two compilations of one network: the second compares its sizes with those of the first."""
    for _ in range(2):
        values = [Value(TensorType(f32, (1,))) for _ in range(1000)]
        ranges = {v: LiveRange(step, step) for step, v in enumerate(values)}
        sizes: dict[Value, Size] = {v: 4 * symbol(f"n{k}") for k, v in enumerate(values)}
        stack, _ = best_stack([[(v, 256) for v in values]], ranges, 64)
        definitions, _, end = stack.places(sizes)
        at = {f"n{k}": 16 * (k % 7) for k in range(1000)}
        assert evaluate_named(end, define(at, definitions)) == 4 * 16 * 6


def _squares() -> Graph:
    """Products [n, n] and [m, m] by turns: in parts of the arena, both kinds would be kept."""
    builder = GraphBuilder("squares")
    x = builder.input("x", TensorType(f32, (N, M)))
    transposed = builder.apply("transpose", x, permutation=(1, 0))
    wide = builder.apply("matmul", builder.apply("matmul", x, transposed), x)
    tall = builder.apply(
        "matmul", builder.apply("tanh", wide), builder.apply("matmul", transposed, x)
    )
    return builder.finish([builder.apply("tanh", tall)])


def test_the_run_computes_places_where_parts_would_waste() -> None:
    program = build_program(_squares(), host_target())
    parts, placed = plan_memory(program, in_run=False), plan_memory(program)
    assert placed.definitions and not parts.definitions
    for n, m in ((100, 100), (30, 200)):
        at = {"n": n, "m": m}
        bound = evaluate_named(placed.lower_bound, at)
        assert bound <= placed.arena_bytes(program, at) < parts.arena_bytes(program, at)


def test_results_are_right_at_all_sizes() -> None:
    model = bessemer.compile(_squares(), threads=1, cache=False)
    rng = np.random.default_rng(0)
    for n, m in ((7, 5), (100, 3), (1, 64), (90, 130), (0, 4), (33, 33)):
        x = rng.standard_normal((n, m)).astype(np.float32) / 8
        wide = np.tanh(x.astype(np.float64) @ x.T.astype(np.float64) @ x)
        (found,) = model.run({"x": x})
        np.testing.assert_allclose(found, np.tanh(wide @ (x.T @ x)), atol=1e-5)
