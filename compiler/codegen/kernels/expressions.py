"""Expressions of the loop language as LLVM values.

Inside a vector loop an expression is a vector where its lanes differ and a scalar where they agree.
Equal subexpressions of one statement are one object (see ir/expr.py) and become one value.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, reduce

from bessemer.compiler.codegen import arithmetic
from bessemer.compiler.codegen.arithmetic import binary, compare, intrinsic, like, select
from bessemer.compiler.codegen.kernels import calls, conversions, loads
from bessemer.compiler.codegen.kernels.activation_patterns import recognized_function
from bessemer.compiler.codegen.kernels.byte_tables import look_up
from bessemer.compiler.codegen.kernels.indices import Indices
from bessemer.compiler.codegen.kernels.nibble_tables import looked_up_difference
from bessemer.compiler.codegen.kernels.quantization import quantized
from bessemer.compiler.codegen.kernels.quotients import constant_divisor, quotient
from bessemer.compiler.codegen.kernels.state import KernelState, number
from bessemer.compiler.codegen.lanes import any_lane, first_of, same_lanes, splat, steps
from bessemer.compiler.codegen.math import vector_math
from bessemer.compiler.codegen.values import Value, literal
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression
from bessemer.compiler.ir.types import boolean, i8, i16, i32, i64

OUT_OF_RANGE = "index out of range"
_ORDERED = ("lt", "le", "gt", "ge")
_DIVISIONS = ("div", "mod", "trunc_div", "fmod")


def evaluate(state: KernelState, node: Expression) -> Value:
    """The value of an expression of a statement."""
    return _Evaluation(state).value(state.expression(node))


def indices(state: KernelState) -> Indices:
    """Index arithmetic that may contain expressions."""
    evaluation = _Evaluation(state)
    return Indices(state, evaluation.value)


def fault(state: KernelState, condition: Value, message: str) -> None:
    """Stores the message's code in the fault cell if the condition is true in any lane that is not
    masked."""
    w = state.writer
    if condition.lanes > 1 and state.mask is not None:
        condition = w.operate("and", boolean, condition, state.mask)
    failed = any_lane(w, condition)
    cell = f"select {failed.typed}, ptr {state.fault_cell()}, ptr {state.sink()}"
    # It always stores, to the fault cell or to an unused cell: expressions have no branches.
    place = w.compute(cell, boolean, 1, failed.level)
    w.line(f"store i32 {state.fault_code(message)}, ptr {place.text}, align 4")


class _Evaluation:
    """Evaluates expressions in the current state of a kernel."""

    def __init__(self, state: KernelState) -> None:
        self.state = state
        self.writer = state.writer
        self.indices = Indices(state, self.value)

    def value(self, node: Expression) -> Value:
        key = (node, self.state.guard)
        found = self.state.values.get(key)
        if found is None:
            found = self.state.values[key] = self._compute(node)
        return found

    def _compute(self, node: Expression) -> Value:
        w = self.writer
        match node:
            case expr.Constant(dtype, value):
                return literal(value, dtype)
            case expr.Given(_, symbol):
                return self.state.given(symbol)
            case expr.IndexValue(_, size):
                return self.indices.vector(size)
            case expr.Load():
                return self._load(node)
            case expr.Unary(_, name, operand):
                x = self._rounded(operand) if name == "round" else self.value(operand)
                if name in arithmetic.INTRINSICS:
                    return arithmetic.unary(w, name, x)
                return calls.math_function(self.state, name, x)
            case expr.Binary():
                return self._binary(node)
            case expr.Select(_, condition, then, otherwise):
                return select(w, self.value(condition), self.value(then), self.value(otherwise))
            case expr.Cast(dtype, operand):
                bytes_ = quantized(self.state, self.value, node)
                if bytes_ is not None:
                    return bytes_
                return conversions.cast(self.state, self.value(operand), operand.dtype, dtype)
            case expr.Bits(dtype, operand):
                x = self.value(operand)
                return conversions.reinterpreted(self.state, x, operand.dtype, dtype)
            case expr.Checked(_, operand, extent):
                return self._checked(operand, extent)
            case expr.Read(_, local):
                return self._local(local)
            case expr.FragmentElement(_, fragment, row):
                if self.state.element is None:
                    raise InternalError(f"an element of {fragment} outside of a fragment's stores")
                return self.state.element(fragment, row)
            case _:
                raise InternalError(f"no code for {expr.describe(node)}")

    def _local(self, name: str) -> Value:
        if name not in self.state.locals:
            raise InternalError(f"the local {name} is read where it is not defined")
        return self.state.locals[name]

    def _load(self, node: expr.Load) -> Value:
        kept = self.state.kept_element(node.buffer)
        if kept is not None:
            return kept
        found = look_up(self.state, self.value, node)
        if found is not None:
            return found
        offset = node.buffer.offset(node.indices)
        if node.guard is None:
            return loads.load(self.indices, node.buffer, offset, None)
        guard = self.value(node.guard)
        far = loads.lies_far_in_front(node.buffer, offset)
        common = self._common(node.guard) if far and guard.lanes > 1 else None
        with self._under(guard):
            return loads.load(self.indices, node.buffer, offset, guard, common)

    def _common(self, guard: Expression) -> Value | None:
        """The part of a guard that is the same for all lanes; None if there is none."""
        if not isinstance(guard, expr.Binary) or guard.name != "and":
            value = self.value(guard)
            return value if value.lanes == 1 else None
        parts = [part for side in (guard.left, guard.right) if (part := self._common(side))]
        return reduce(partial(self.writer.operate, "and", boolean), parts) if parts else None

    @contextmanager
    def _under(self, guard: Value) -> Iterator[None]:
        """Evaluates under a guard: an index that is only used where the guard is true cannot fail
        elsewhere."""
        before = self.state.guard
        both = guard
        if before is not None:
            both = self.writer.operate("and", boolean, *same_lanes(self.writer, guard, before))
        self.state.guard = both
        yield
        self.state.guard = before

    def _rounded(self, operand: Expression) -> Value:
        """An operand that is rounded to whole numbers next, often a quotient; see quotients.py."""
        divisor = constant_divisor(self.state, operand)
        if divisor is None:
            return self.value(operand)
        assert isinstance(operand, expr.Binary)
        return quotient(self.state, self.value(operand.left), divisor)

    def _binary(self, node: expr.Binary) -> Value:
        if node.name in _ORDERED and node.left.dtype is i64:
            mask = self._index_mask(node)
            if mask is not None:
                return mask
        function = self._joined(node) or looked_up_difference(self.state, self.value, node)
        if function is not None:
            return function
        one, other = _numbers(node.left), _numbers(node.right)
        if node.name == "and" and one and other and one.dtype is other.dtype:
            return compare(self.writer, "ord", self.value(one), self.value(other))
        left, right = self.value(node.left), self.value(node.right)
        if node.name == "pow" and left.kind is not boolean:
            return calls.power(self.state, left, right)
        if node.name in _DIVISIONS and left.kind is not boolean:
            return calls.division(self.state, node.name, left, right)
        return binary(self.writer, node.name, left, right)

    def _joined(self, node: expr.Binary) -> Value | None:
        """Several operations as one function; None if there is no such function, or a part of them
        has been computed already."""
        found = recognized_function(node)
        if found is None or (found.inner, self.state.guard) in self.state.values:
            return None
        if found.function in vector_math.LOOKED_UP and not self.state.target.has_lookup:
            return None
        x = self.value(found.operand)
        w, y = self.writer, calls.math_function(self.state, found.function, x)
        for factor in found.times:
            y = binary(w, "mul", y, self.value(factor))
        return y if found.factor == 1 else binary(w, "mul", y, like(y, found.factor))

    def _index_mask(self, node: expr.Binary) -> Value | None:
        """A comparison of indices that grow by one from lane to lane, computed in narrow lanes."""
        if self.state.vectors is None:
            return None
        left, right = node.left, node.right
        if not all(isinstance(side, (expr.IndexValue, expr.Constant)) for side in (left, right)):
            return None
        if node.name in ("gt", "ge"):
            left, right = right, left
        # left < right, or for le and ge left < right + 1, as distance < 0
        distance = expr.as_index(left) - expr.as_index(right)
        if node.name in ("le", "ge"):
            distance = distance - 1
        stride = self.indices.stride(distance)
        if stride == 1:
            return first_lanes(self.state, self.indices.scalar(-distance))
        if stride == -1:
            others = first_lanes(self.state, self.indices.scalar(distance + 1))
            return arithmetic.unary(self.writer, "not", others)
        return None

    def _checked(self, operand: Expression, extent: Size) -> Value:
        w, index = self.writer, self.value(operand)
        size = self.indices.vector(extent)
        index, size = same_lanes(w, index, size)
        counted = select(
            w, compare(w, "slt", index, like(index, 0)), w.operate("add", i64, index, size), index
        )
        outside = compare(w, "uge", counted, size)
        guard = self.state.guard
        failed = outside
        if guard is not None:
            failed = w.operate("and", boolean, *same_lanes(w, outside, guard))
        fault(self.state, failed, OUT_OF_RANGE)
        last = w.operate("sub", i64, size, like(size, 1))
        inside = intrinsic(w, "smin", intrinsic(w, "smax", counted, like(counted, 0)), last)
        return intrinsic(w, "smax", inside, like(inside, 0))


def first_lanes(state: KernelState, count: Value) -> Value:
    """The mask of the lanes below `count`, which may be any number."""
    w, width = state.writer, state.width
    if count.number == 1:
        return first_of(width)
    kind = i8 if 32 < width <= 64 else i16 if width == 32 else i32
    limited = intrinsic(w, "smax", intrinsic(w, "smin", count, number(width)), number(0))
    narrow = w.compute(f"trunc {limited.typed} to i{kind.bits}", kind, 1, limited.level)
    return compare(w, "ult", steps(kind, width), splat(w, narrow, width))


def _numbers(node: Expression) -> Expression | None:
    """The operand x, if the node is "x is not NaN"; else None."""
    match node:
        case expr.Unary(_, "not", expr.Unary(_, "isnan", operand)) if operand.dtype.is_float:
            return operand
        case _:
            return None
