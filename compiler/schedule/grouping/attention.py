"""Finds attention in a graph: a matmul, pointwise work, a softmax or something like it, and a
second matmul.

    scores  = matmul(query, key)                          [batch..., rows, keys]
    carried = scores * scale + mask ...                   pointwise, of the scores' shape
    weights = exp(carried - max) / sum ...                pointwise and reductions over the keys
    result  = matmul(weights, value)                      [batch..., rows, columns]

Anything may lie between the products that keeps rows apart: each weight may depend on the scores of
its own row only. To find out, the element rules are applied to symbols; all scores that they then
read must be of that row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.dims import Size, Symbol, atom
from bessemer.compiler.ir.expr import Buffer, Expression, Index
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import bf16, f16, f32, f64
from bessemer.compiler.ir.walk_expr import reductions_of
from bessemer.compiler.schedule.dependence import Dependence
from bessemer.compiler.schedule.grouping.few_rows import reads_in_place
from bessemer.compiler.schedule.grouping.fuse import Fusion, as_index, index_symbols
from bessemer.compiler.schedule.grouping.views import is_affine_operand

MOST_NODES = 40
"""The search gives up if there are more nodes than this between the products."""
_MOST_ROWS_APART = 4
"""With at most this many rows, products that read right operands in place stay apart (measured)."""


@dataclass(frozen=True, eq=False)
class Attention:
    """Two products and the nodes between them.

    `before` are the nodes from the scores to `carried`, the value that is stored in the scratch
    memory in place of the scores. `between` are all other nodes up to the weights. `views` are the
    views through which these read other values.
    """

    scores: Node
    product: Node
    before: tuple[Node, ...]
    between: tuple[Node, ...]
    carried: Value
    views: tuple[Node, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes of the group besides the second product and what follows it."""
        return (*self.views, self.scores, *self.before, *self.between)

    @property
    def others(self) -> tuple[Value, ...]:
        """The values that the nodes between the products read from memory."""
        made = {value for node in self.nodes for value in node.outputs}
        read = (v for node in (*self.views, *self.before, *self.between) for v in node.inputs)
        return tuple(dict.fromkeys(value for value in read if value not in made))


@dataclass(frozen=True, eq=False)
class RowForm:
    """The weights of one row as an expression over symbols.

    `batch`, `row` and `key` are the symbols of the weights' index. `leading` is the index of the
    row's scores in the first product, without the last axis.
    """

    batch: tuple[Symbol, ...]
    row: Symbol
    key: Symbol
    leading: Index
    weight: Expression


def find_attentions(graph: Graph) -> dict[Node, Attention]:
    """The attentions of a graph, by their second product. No node is in two of them."""
    search = _Search(graph, graph.users(), graph.producers())
    found: dict[Node, Attention] = {}
    taken: set[Node] = set()
    for node in graph.nodes:
        if node.operator.name != "matmul":
            continue
        attention = search.ending_in(node)
        if attention is not None and taken.isdisjoint((*attention.nodes, node)):
            found[node] = attention
            taken.update((attention.scores, *attention.before, *attention.between, node))
    return found


def in_full_width(product: Node) -> bool:
    """Whether the operands and results of a product are all f32, or all f64."""
    types = {value.type.dtype for value in (*product.inputs, product.output)}
    return types in ({f32}, {f64})


def of_rounded(product: Node) -> bool:
    """Whether a product multiplies bf16 numbers and adds them up in f32."""
    return product.output.type.dtype is f32 and {v.type.dtype for v in product.inputs} == {bf16}


def in_registers(attention: Attention) -> bool:
    """Whether the attention kernel for processors should compute an attention: it can, and there
    are enough rows to make packing the keys worth it. The first sums and what is carried of them
    lie in an array of the type of the second sums."""
    products = (attention.scores, attention.product)
    sums, kept = attention.product.output.type.dtype, attention.carried.type.dtype
    if attention.scores.output.type.dtype is not sums or kept.bytes > sums.bytes:
        return False
    rows = attention.scores.output.type.shape[-2]
    is_few = isinstance(rows, int) and rows <= _MOST_ROWS_APART
    if is_few and any(map(reads_in_place, products)):
        return False
    return all(map(in_full_width, products)) or all(map(of_rounded, products))


def row_form(
    attention: Attention,
    fusion: Fusion,
    score: Callable[[Size], Expression],
) -> RowForm | None:
    """The weights of a row, in terms of the row's carried scores, which `score(key)` gives. None if
    they depend on anything else of the scores."""
    weights = attention.product.inputs[0]
    symbols = index_symbols(weights.type.shape, "weight")
    *batch, row, key = symbols
    asked: set[Index] = set()
    keys: set[Size] = set()

    def carried(index: Index) -> Expression:
        asked.add(index[:-1])
        keys.add(index[-1])
        return score(index[-1])

    inner = fusion.given({attention.carried: carried})
    weight = inner.element(weights, as_index(symbols, weights.type.shape))
    if len(asked) != 1 or not _are_replaceable(weight, keys, symbols):
        return None
    (leading,) = asked
    own = 0 if row.extent == 1 else atom(row)
    if not leading or leading[-1] != own:
        return None
    if any({row, key} & dims.atoms(index) for index in leading[:-1]):
        return None
    return RowForm(tuple(batch), row, key, leading, weight)


def _are_replaceable(weight: Expression, keys: set[Size], symbols: Sequence[Symbol]) -> bool:
    """Whether a row's weights can be written over its scores, one after the other. That is so if
    `weight` reads the score at its own key only, apart from reductions over all keys, which are
    computed before. `keys` are the places that it reads."""
    *others, key = symbols
    own = 0 if key.extent == 1 else atom(key)
    elsewhere = {dims.as_atom(place) for place in keys - {own}}
    if not all(isinstance(place, Symbol) and place not in others for place in elsewhere):
        return False
    dependence = Dependence()
    return not any(key in dependence.of(n) for n in reductions_of(weight))


@dataclass(frozen=True, eq=False)
class _Search:
    graph: Graph
    users: Mapping[Value, Sequence[Node]]
    producers: Mapping[Value, Node]

    def ending_in(self, product: Node) -> Attention | None:
        """The attention whose second product this is."""
        weights = product.inputs[0]
        if not self._may_multiply(product) or weights.type.numel == 0:
            return None
        if product.output.type.shape[:-2] != weights.type.shape[:-2]:
            return None  # Several matrices of values share weights.
        scores = self._scores_before(weights)
        if scores is None or not self._may_multiply(scores):
            return None
        if not is_affine_operand(scores.inputs[0], self.producers):
            return None
        between = self._reached_from(scores, product)
        # The kernel divides the result, not the weights, by the row's sum. If the largest score of
        # the row was not subtracted, the undivided weights could overflow.
        if between is None or not any(node.operator.name == "reduce_max" for node in between):
            return None
        before, carried = self._carried(scores)
        rest = tuple(node for node in between if node not in before)
        views = self._views((*before, *rest), {scores, *between})
        attention = Attention(scores, product, before, rest, carried, views)
        inlined = {n.output: n for n in (*views, *rest)}
        fusion = Fusion(inlined, self.graph.constants)
        scratch = Buffer("scores", carried.type.dtype, (carried.type.shape[-1],))
        form = row_form(attention, fusion, lambda key: expr.load(scratch, (key,)))
        return None if form is None else attention

    def _may_multiply(self, node: Node) -> bool:
        """Whether a matrix product can be one of the two: neither operand is constant, and their
        types fit."""
        left, right = node.inputs
        narrow = left.type.dtype in (bf16, f16) and left.type.dtype is right.type.dtype
        constant = right in self.graph.constants or left in self.graph.constants
        whole = min(left.type.rank, right.type.rank) >= 2
        return (narrow or in_full_width(node)) and whole and not constant

    def _scores_before(self, weights: Value) -> Node | None:
        """The one matrix product from which the weights are computed element by element; None if
        there is none, or more than one."""
        numel = weights.type.numel
        waiting, seen = [weights], {weights}
        found: set[Node] = set()
        while waiting:
            node = self.producers.get(waiting.pop())
            if node is None or len(node.outputs) != 1 or len(seen) > 4 * MOST_NODES:
                continue
            if node.operator.name == "matmul":
                found.add(node)
                continue
            if node.operator.element is None or node.operator.name == "broadcast_to":
                continue
            for value in node.inputs:
                if value.type.numel == numel and value not in seen:
                    seen.add(value)
                    waiting.append(value)
        return found.pop() if len(found) == 1 else None

    def _reached_from(self, scores: Node, product: Node) -> tuple[Node, ...] | None:
        """The nodes between the products, in order; None if the scores are used in another way,
        too."""
        found: dict[Node, None] = {}
        waiting = [scores.output]
        while waiting:
            value = waiting.pop()
            if value in self.graph.outputs:
                return None
            for user in self.users.get(value, ()):
                if user is product:
                    if value is not product.inputs[0] or value is product.inputs[1]:
                        return None
                    continue
                if user in found:
                    continue
                if len(found) == MOST_NODES or not _keeps_rows(user):
                    return None
                found[user] = None
                waiting.append(user.output)
        return tuple(node for node in self.graph.nodes if node in found)

    def _carried(self, scores: Node) -> tuple[tuple[Node, ...], Value]:
        """The chain of pointwise nodes that follow the scores, and its last value of the scores'
        type."""
        value, walked, kept = scores.output, [], 0
        carried = value
        while len(users := self.users[value]) == 1:
            (user,) = users
            operator = user.operator
            if operator.is_view or operator.name.startswith("reduce_"):
                break
            if user.output.type.shape != value.type.shape or operator.name == "matmul":
                break
            if not _stays_in_place(user, value):
                break
            walked.append(user)
            value = user.output
            if value.type == scores.output.type:
                carried, kept = value, len(walked)
        return tuple(walked[:kept]), carried

    def _views(self, readers: Sequence[Node], inside: set[Node]) -> tuple[Node, ...]:
        """The views between these nodes and memory."""
        found: dict[Node, None] = {}
        waiting = [value for node in readers for value in node.inputs]
        while waiting:
            node = self.producers.get(waiting.pop())
            if node is None or node in inside or node in found or not node.operator.is_view:
                continue
            found[node] = None
            waiting.extend(node.inputs)
        return tuple(node for node in self.graph.nodes if node in found)


def _is_row_reduction(node: Node) -> bool:
    if not node.operator.name.startswith("reduce_"):
        return False
    return tuple(node.attributes["axes"]) == (node.inputs[0].type.rank - 1,)


def _stays_in_place(node: Node, value: Value) -> bool:
    """Whether a node's element at an index is computed from the value's element at the same
    index."""
    asked: set[Index] = set()

    def element(index: Index) -> Expression:
        asked.add(index)
        return expr.read("score", value.type.dtype)

    index = as_index(index_symbols(value.type.shape), value.type.shape)
    Fusion({node.output: node}, {}, {value: element}).element(node.output, index)
    return asked == {index}


def _keeps_rows(node: Node) -> bool:
    """Whether a node other than a product may stand between the products."""
    if node.operator.element is None or len(node.outputs) != 1 or node.regions:
        return False
    if node.operator.name.startswith("reduce_"):
        return _is_row_reduction(node)
    return node.operator.name not in ("matmul", "conv", "concat", "pad")
