"""Every operator's rules agree with its reference on its examples. No operator is named here."""

import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import symbol_names
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.interpreter.interpret_elements import run_element_rule
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.op import OPS, Operator
from bessemer.compiler.ir.types import Array, type_of
from tests.op_cases import Case, assert_same, cases, each_case

NOT_FUNCTIONS_OF_ARRAYS = {"bind", "if", "loop"}
"""Carried out by the run body, and tested with the interpreter of graphs."""

each_operator = pytest.mark.parametrize("operator", OPS.values(), ids=str)


@each_operator
def test_an_operator_has_several_examples(operator: Operator) -> None:
    assert operator.name in NOT_FUNCTIONS_OF_ARRAYS or len(operator.examples) >= 3


@each_operator
def test_an_operator_is_run_in_one_way(operator: Operator) -> None:
    ways = (operator.element is not None) + (operator.statements is not None)
    assert ways == (0 if operator.name in NOT_FUNCTIONS_OF_ARRAYS else 1)


def test_a_case_that_is_skipped_hides_no_other() -> None:
    some = [case for case in cases() if case.operator.name == "add"]
    seen: list[Case] = []

    @each_case(where=lambda case: False)
    def visit(case: Case) -> None:
        seen.append(case)
        pytest.skip("each of them")

    visit(some)
    assert seen == some and len(some) > 1


@each_case()
def test_types_are_those_of_the_reference_which_leaves_its_inputs_alone(case: Case) -> None:
    types = case.operator.infer_types([type_of(x) for x in case.arrays], case.attributes)
    before = [x.tobytes() for x in case.arrays]
    results = case.operator.compute(case.arrays, case.attributes)
    assert [x.tobytes() for x in case.arrays] == before
    assert len(types) == len(results)
    for type, result in zip(types, results):
        assert result.dtype == type.dtype.numpy
        sizes = zip(type.shape, result.shape)
        # A size that depends on the data is a symbol.
        assert all(size == actual for size, actual in sizes if isinstance(size, int))
        assert result.ndim == type.rank


@each_case(element=True)
def test_the_element_rule_is_the_reference(case: Case) -> None:
    (expected,) = case.operator.compute(case.arrays, case.attributes)
    actual = run_element_rule(case.operator, case.arrays, case.attributes)
    assert_same(actual, expected, case.tolerance)


@each_case(statements=True)
def test_the_kernel_is_the_reference(case: Case) -> None:
    expected = case.operator.compute(case.arrays, case.attributes)
    results = run_statements(case)
    assert len(results) == len(expected)
    for actual, wanted in zip(results, expected):
        assert_same(actual, wanted, case.tolerance)


def run_statements(case: Case) -> tuple[Array, ...]:
    """The outputs of a case by the statements of its operator, under the interpreter."""
    types = case.operator.infer_types([type_of(x) for x in case.arrays], case.attributes)
    inputs = [Buffer(f"x{k}", type_of(x).dtype, x.shape) for k, x in enumerate(case.arrays)]
    outputs = [Buffer(f"y{k}", type.dtype, type.shape) for k, type in enumerate(types)]
    builder = KernelBuilder()
    assert case.operator.statements is not None
    case.operator.statements(builder, inputs, outputs, **case.attributes)
    # Scratch memory starts unwritten as outputs do, and is left out of the results again.
    written = (*builder.scratch_buffers, *outputs)
    kernel = Kernel("case", (*inputs, *written), len(written), (), builder.block())
    # A size that the kernel decides starts as the most that it can be.
    sizes = [size for type in types for size in type.shape]
    most = max((x.size for x in case.arrays), default=0)
    symbols = {name: most for size in sizes for name in symbol_names(size)}
    result = run_kernel(kernel, case.arrays, symbols)
    assert result.failures == ()
    return result.outputs[len(builder.scratch_buffers) :]


def compile_and_run(case: Case) -> tuple[Array, ...]:
    """The outputs of a case by compiled code, for a graph of this one node."""
    builder = GraphBuilder(case.operator.name)
    inputs = [builder.input(f"x{k}", type_of(x)) for k, x in enumerate(case.arrays)]
    outputs = builder.apply_many(case.operator.name, *inputs, **case.attributes)
    graph = builder.finish(outputs, [f"y{k}" for k in range(len(outputs))])
    model = bessemer.compile(graph, cache=False)
    results = model.run({f"x{k}": x for k, x in enumerate(case.arrays)})
    return tuple(results)


@each_case(most_are_slow=True)
def test_compiled_code_is_the_reference(case: Case) -> None:
    expected = case.operator.compute(case.arrays, case.attributes)
    for actual, wanted in zip(compile_and_run(case), expected, strict=True):
        assert_same(actual, wanted, case.tolerance)
