"""Which nodes one kernel computes together, where it is a matter of time only."""

from __future__ import annotations

import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import TensorType, f32, i64, u8
from bessemer.compiler.schedule.grouping import fusion_rules
from bessemer.compiler.schedule.grouping.form_groups import form_groups


def _roots(b: GraphBuilder, *outputs: Value) -> list[str]:
    """The operators whose results lie in memory, by name."""
    graph = b.finish(outputs)
    producers = graph.producers()
    return sorted(producers[root].operator.name for root in form_groups(graph).roots)


def test_bytes_are_stored_before_windows_and_sums_read_them() -> None:
    b = GraphBuilder("bytes")
    x = b.input("x", TensorType(f32, (1, 8, 8, 4)))
    narrow = b.apply("cast", b.apply("relu", x), dtype=u8)
    window = {"kernel": (3, 3), "strides": (1, 1), "dilations": (1, 1), "low": (1, 1)}
    pooled = b.apply("max_pool", narrow, high=(1, 1), **window)
    other = b.apply("cast", b.apply("exp", x), dtype=u8)
    summed = b.apply("reduce_max", other, axes=(3,))
    assert _roots(b, pooled, summed) == ["cast", "cast", "max_pool", "reduce_max"]


def test_what_is_computed_of_a_vector_is_not_computed_for_every_row() -> None:
    b = GraphBuilder("rows")
    x = b.input("x", TensorType(f32, (4, 3, 8)))
    y = b.input("y", TensorType(f32, (5, 8)))
    vector, other = (b.input(name, TensorType(f32, (8,))) for name in "vw")
    wide = b.apply("broadcast_to", b.apply("exp", vector), shape=x.type.shape)
    summed = b.apply("reduce_sum", b.apply("mul", x, wide), axes=(2,))
    spread = b.apply("broadcast_to", b.apply("log", other), shape=y.type.shape)
    roots = _roots(b, summed, b.apply("mul", y, spread))
    assert roots == ["exp", "log", "mul", "reduce_sum"]


def test_parts_are_put_together_before_a_product_s_sums_meet_them() -> None:
    b = GraphBuilder("parts")
    x, w = (b.input(name, TensorType(f32, (4, 4))) for name in "xw")
    u, v = (b.input(name, TensorType(f32, (4, 2))) for name in "uv")
    both = b.apply("concat", u, v, axis=1)
    assert _roots(b, b.apply("add", b.apply("matmul", x, w), both)) == ["add", "concat"]


def test_parts_and_sums_are_stored_before_elements_are_picked_from_their_rows() -> None:
    b = GraphBuilder("picked")
    x, y = (b.input(name, TensorType(f32, (4, 8))) for name in "xy")
    u, v = (b.input(name, TensorType(f32, (4, 4))) for name in "uv")
    order = b.input("order", TensorType(i64, (8,)))
    parts = b.apply("gather", b.apply("concat", u, v, axis=1), order, axis=1)
    sums = b.apply("gather", b.apply("exp", b.apply("add", x, y)), order, axis=1)
    alone = b.apply("gather", b.apply("exp", x), order, axis=1)
    rows = b.apply("gather", b.apply("add", y, x), order, axis=0)
    roots = _roots(b, parts, sums, alone, rows)
    assert roots == ["add", "concat", "gather", "gather", "gather", "gather"]


def test_steps_that_read_two_places_do_not_multiply_the_work() -> None:
    """Maxima over 2, 4, 8 and 16 neighbours, each from two of the one before (a corner pool)."""
    b = GraphBuilder("steps")
    x = y = b.input("x", TensorType(f32, (8, 64)))
    for distance in (1, 2, 4, 8):
        shifted = b.apply("slice", y, starts=(0, distance), steps=(1, 1), shape=(8, 64 - distance))
        pads = {"low": (0, 0), "high": (0, distance), "mode": "constant"}
        y = b.apply("max", y, b.apply("pad", shifted, value=-9.0, **pads))
    halves = [b.apply("slice", x, starts=(0, s), steps=(1, 1), shape=(8, 32)) for s in (0, 32)]
    rotated = b.apply("concat", *halves[::-1], axis=1)
    assert _roots(b, y, b.apply("add", x, rotated)) == ["add", "max", "max"]


def test_a_value_that_is_read_twice_is_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise 24 SiLUs, one after the other, have 16 million paths."""
    looked_at: list[Node] = []

    def picks(node: Node) -> bool:
        looked_at.append(node)
        return False

    monkeypatch.setattr(fusion_rules, "picks_in_rows", picks)
    b = GraphBuilder("gates")
    x = b.input("x", TensorType(f32, (4, 8)))
    for _ in range(10):
        x = b.apply("mul", x, b.apply("sigmoid", x))
    assert _roots(b, x) == ["mul"]
    assert len(looked_at) < 20 * 20


def test_windows_and_borders_are_read_before_channels_move() -> None:
    b = GraphBuilder("moved")
    x = b.input("x", TensorType(f32, (1, 8, 8, 4)))
    window = {"kernel": (3, 3), "strides": (1, 1), "dilations": (1, 1), "low": (1, 1)}
    pooled = b.apply("max_pool", x, high=(1, 1), **window)
    sides = {"low": (0, 1, 1, 0), "high": (0, 1, 1, 0), "value": 0}
    copied = b.apply("pad", b.input("y", x.type), mode="edge", **sides)
    moved = [b.apply("transpose", each, permutation=(0, 3, 1, 2)) for each in (pooled, copied)]
    roots = _roots(b, *(b.apply("relu", each) for each in moved))
    assert roots == ["max_pool", "pad", "relu", "relu"]


def test_what_follows_sums_is_their_epilogue_unless_others_read_them_too() -> None:
    for is_read_twice in (False, True):
        b = GraphBuilder("sums")
        x, w = (b.input(name, TensorType(f32, (4, 4))) for name in "xw")
        sums = b.apply("matmul", x, w)
        total = b.apply("reduce_sum", b.apply("exp", sums), axes=(1,))
        if is_read_twice:
            assert _roots(b, total, b.apply("neg", sums)) == ["matmul", "neg", "reduce_sum"]
        else:
            assert _roots(b, total) == ["exp", "reduce_sum"]


def test_a_transpose_is_stored_beside_an_operand_that_is_read_along() -> None:
    b = GraphBuilder("crossed")
    square = TensorType(f32, (64, 64))
    x, y, z = (b.input(name, square) for name in "xyz")
    turned = [b.apply("transpose", each, permutation=(1, 0)) for each in (y, z)]
    assert _roots(b, b.apply("add", b.apply("exp", x), turned[0])) == ["add", "transpose"]


def test_a_transpose_is_read_where_nothing_else_is_read_along() -> None:
    b = GraphBuilder("not crossed")
    square, small = TensorType(f32, (64, 64)), TensorType(f32, (8, 8))
    (x, y), (u, v) = (
        [b.input(n, kind) for n in names] for names, kind in (("xy", square), ("uv", small))
    )
    row = b.apply("broadcast_to", b.input("row", TensorType(f32, (64,))), shape=(64, 64))
    turned = [b.apply("transpose", each, permutation=(1, 0)) for each in (x, y, v)]
    heads = b.apply("transpose", b.input("h", TensorType(f32, (8, 16, 32))), permutation=(1, 0, 2))
    other = b.input("o", TensorType(f32, (16, 8, 32)))
    both = b.apply("add", turned[0], b.apply("exp", turned[1]))
    roots = _roots(
        b,
        b.apply("mul", both, row),
        b.apply("sub", u, turned[2]),
        b.apply("max", heads, other),
        b.apply("relu", turned[0]),
    )
    assert "transpose" not in roots
