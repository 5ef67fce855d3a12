"""einsum computes what NumPy's does, contracts by matmul, and says what does not fit."""

from collections.abc import Sequence

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.ops.composite.composite_einsum import einsum
from bessemer.compiler.passes.differentiation.differentiate import gradients
from tests.graph_runs import run
from tests.op_cases import assert_same

EQUATIONS = [
    ("ij,jk->ik", [(3, 4), (4, 5)]),
    ("ij,jk", [(3, 4), (4, 5)]),
    ("ij->ji", [(3, 4)]),
    ("ij->", [(3, 4)]),
    ("ii->i", [(4, 4)]),
    ("ii", [(4, 4)]),
    ("iji->j", [(3, 4, 3)]),
    ("i,j->ij", [(3,), (4,)]),
    ("i,i->", [(5,), (5,)]),
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)]),
    ("...ij,jk", [(2, 6, 3, 4), (4, 5)]),
    ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
    ("bqhd,bkhd->bhqk", [(2, 3, 4, 5), (2, 6, 4, 5)]),
    ("abc,cd,de->abe", [(2, 3, 4), (4, 5), (5, 6)]),
    ("ab,ab->ab", [(3, 4), (3, 4)]),
    ("ab,ab->b", [(3, 4), (3, 4)]),
    ("abcd,bd,ef->af", [(2, 3, 4, 5), (3, 5), (6, 7)]),
    ("b i d, b j d -> b i j", [(2, 3, 5), (2, 4, 5)]),
    ("...a,...a->...", [(1, 4, 3), (2, 4, 3)]),
    ("ab...,b...->...a", [(3, 4, 2, 5), (4, 2, 5)]),
    ("xy,yx->", [(3, 4), (4, 3)]),
    ("Ab,bC->CA", [(3, 4), (4, 5)]),
]


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("equation, shapes", EQUATIONS, ids=str)
def test_einsum_is_that_of_numpy(
    equation: str, shapes: Sequence[tuple[int, ...]], symbolic: bool, rng: np.random.Generator
) -> None:
    arrays = [rng.standard_normal(shape) for shape in shapes]
    (actual,) = run(lambda b, *v: einsum(b, equation, *v), arrays, symbolic=symbolic)
    assert_same(actual, np.asarray(np.einsum(equation, *arrays)), 1e-12)


def test_a_contraction_is_one_matmul() -> None:
    b = GraphBuilder("test")
    x = b.input("x", TensorType(f32, (2, 3, 4, 5)))
    y = b.input("y", TensorType(f32, (2, 6, 4, 5)))
    einsum(b, "bqhd,bkhd->bhqk", x, y)
    names = [node.operator.name for node in b.nodes]
    assert names.count("matmul") == 1
    assert set(names) <= {"matmul", "transpose", "reshape"}


@pytest.mark.parametrize(
    "equation, shapes, words",
    [
        ("ij,jk->ik", [(3, 4)], "about 2 tensors"),
        ("ijk->i", [(3, 4)], "does not fit a tensor of 2 axes"),
        ("ij->ijk", [(3, 4)], "each of some operand"),
        ("ij->ii", [(3, 4)], "different"),
        ("ij,jk->ik", [(3, 4), (5, 6)], "do not broadcast: 4 meets 5"),
        ("i1->i", [(3, 4)], "letters"),
    ],
)
def test_einsum_says_what_is_wrong(
    equation: str, shapes: Sequence[tuple[int, ...]], words: str
) -> None:
    with pytest.raises(CompileError, match=words):
        run(lambda b, *v: einsum(b, equation, *v), [np.zeros(shape) for shape in shapes])


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_a_narrow_second_operand_has_the_rows(symbolic: bool) -> None:
    b = GraphBuilder("test")
    weight = b.input("weight", TensorType(f32, (288, 160, 8)))
    x = b.input("x", TensorType(f32, (symbol("batch") if symbolic else 2, 288, 8)))
    einsum(b, "nok,bnk->bno", weight, x)
    (columns,) = [n.output.type.shape[-1] for n in b.nodes if n.operator.name == "matmul"]
    assert columns == 160


def test_a_diagonal_is_read_not_summed() -> None:
    b = GraphBuilder("test")
    x = b.input("x", TensorType(f32, (symbol("batch"), symbol("n"), symbol("n"))))
    found = gradients(b, b.apply("reduce_sum", einsum(b, "bii->bi", x), axes=(0, 1)), [x])
    names = [node.operator.name for node in b.nodes]
    assert names.count("reduce_sum") == 1
    assert not any(name.startswith("scatter") for name in names)
    graph = b.finish(found)
    for size in (0, 1, 5):
        (ones,) = run_graph(graph, {"x": np.ones((2, size, size), np.float32)})
        np.testing.assert_array_equal(ones, np.broadcast_to(np.eye(size), (2, size, size)))
