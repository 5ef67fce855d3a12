"""Checks vector loops: lanes do not branch differently, and no value passes from lane to lane."""

from __future__ import annotations

from bessemer.compiler.ir.dims import Size, Symbol, atoms
from bessemer.compiler.ir.expr import Expression, IndexValue, Load, Read
from bessemer.compiler.ir.loops import (
    Accumulate,
    Assign,
    Attend,
    Barrier,
    Block,
    Contract,
    Define,
    For,
    Fragment,
    FragmentFill,
    FragmentMac,
    FragmentStore,
    If,
    While,
)
from bessemer.compiler.ir.tile_statements import TileLoad, TileMac, TileSetup, TileStore, TileZero
from bessemer.compiler.ir.walk_expr import all_nodes, index_expressions
from bessemer.compiler.ir.walk_loops import expressions, walk


def check_vector_loop(loop: For) -> str:
    """What is wrong with a vector loop; nothing if it is right."""
    varying = _Varying(loop)
    inner = {s.local for s in walk(loop.body) if isinstance(s, Define)}
    for statement in walk(loop.body):
        match statement:
            case For(kind="vector" | "parallel" | "team"):
                return f"a {statement.kind} loop inside of a vector loop"
            case Barrier():
                return "a barrier inside of a vector loop"
            case For(extent=extent) if varying.in_size(extent):
                return "a loop's length depends on the lane"
            case If(condition) | While(condition) if varying.in_value(condition):
                return "a branch depends on the lane"
            case Assign(local) if local not in inner:
                return f"{local} is carried from iteration to iteration by an assignment"
            case Fragment() | FragmentFill() | FragmentMac() | FragmentStore():
                return "a fragment inside of a vector loop"
            case TileSetup() | TileZero() | TileLoad() | TileStore() | TileMac():
                return "a matrix unit's tile inside of a vector loop"
            case Contract() | Attend():
                return "a contraction's tile inside of a vector loop"
    return _misused_accumulator(loop, inner)


def _misused_accumulator(loop: For, inner: set[str]) -> str:
    """Reading a local while the lanes have parts of its sum each, or mixing reductions in it."""
    outer: dict[str, str] = {}
    for statement in walk(loop.body):
        if not isinstance(statement, Accumulate) or statement.local in inner:
            continue
        if outer.setdefault(statement.local, statement.name) != statement.name:
            return f"{statement.local} accumulates by {statement.name} and another reduction"
    reads = {
        node.local
        for statement in walk(loop.body)
        for root in expressions(statement)
        for node in all_nodes(root)
        if isinstance(node, Read)
    }
    mixed = reads & set(outer)
    return f"{sorted(mixed)[0]} is read where it is still accumulated" if mixed else ""


class _Varying:
    """Which values differ between the lanes of a vector loop."""

    def __init__(self, loop: For) -> None:
        self.index: Symbol = loop.index
        self.locals: set[str] = set()
        self._find(loop.body)

    def _find(self, body: Block) -> None:
        """Locals that take varying values; again until there are no more."""
        before = -1
        while len(self.locals) != before:
            before = len(self.locals)
            for statement in walk(body):
                match statement:
                    case Define(local, value) | Assign(local, value) if self.in_value(value):
                        self.locals.add(local)
                    case Accumulate(local, _, value) if self.in_value(value):
                        self.locals.add(local)

    def in_value(self, root: Expression) -> bool:
        """Whether an expression differs between lanes."""
        return any(self._directly(node) for node in all_nodes(root))

    def in_size(self, size: Size) -> bool:
        """Whether index arithmetic differs between lanes."""
        return self.index in atoms(size) or any(map(self.in_value, index_expressions(size)))

    def _directly(self, node: Expression) -> bool:
        match node:
            case Read(_, local):
                return local in self.locals
            case Load(_, _, indices):
                return any(self.index in atoms(index) for index in indices)
            case IndexValue(_, size):
                return self.index in atoms(size)
            case _:
                return False
