"""The loop language: kernels as loops over loads, stores, locals and register fragments.

A kernel's parameters are buffers and dimension symbols. Its body is a sequence of statements:

    for         a counted loop from 0; serial, parallel, vector or unrolled
    if          statements under a condition
    while       repeats while a condition holds, tested first
    define      a local variable with its first value; assign and accumulate change it
    store       writes one element
    allocate    a small local array (on the stack; its shape is constant)
    fragment    a block of rows x columns kept in registers (or in a matrix unit's tiles)
    fill        sets every element of a fragment from one row of values
    mac         fragment[r, c] += a[a_offset[r]] * b[b_offset + c], for the rows named, all columns;
                or sums of a few neighbouring products at once
    fragment-store   for every row, stores that may read `FragmentElement`s
    tile-...    what a matrix unit does on its eight tiles of up to 16 rows x 64 bytes
    contract    a tile of a contraction: sums of products of two operands, each then stored
    attend      rows of an attention: softmax(scores of queries and keys) times values, then stored
    set-dim     gives a data-dependent dimension symbol its value
    fail        ends the run with a message if a condition holds
    prefetch    a hint: read soon
    stream      a hint: not read soon after it is stored
    barrier     waits until all members of the kernel's team have come here

Order. Serial and unrolled loops run in order. The iterations of a parallel loop may run in any
order and at the same time; only the outermost statement of a kernel may be one. A team loop is
another such: all of its iterations run at the same time, so that they can wait for each other at
barriers, of which all pass the same ones; what was stored before a barrier is seen behind it. How
many there are, the symbol `TEAM`, is settled when the kernel runs, and may not matter. A vector
loop means the same as a serial one, except that an `accumulate` into a local defined outside it may
be summed in another (fixed) order; nothing else may be carried from iteration to iteration.
The semantics of fragments do not say how large a machine's registers are: schedules choose that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, Union

from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Expression, Index
from bessemer.compiler.ir.operands import Operand, Products, Tile
from bessemer.compiler.ir.tile_statements import TileLoad, TileMac, TileSetup, TileStore, TileZero
from bessemer.compiler.ir.types import DType, f32

LoopKind = Literal["serial", "parallel", "team", "vector", "unroll"]
TEAM = "bessemer_team"
"""The symbol for the number of a team's members."""


@dataclass(frozen=True, eq=False)
class For:
    """Runs the body for index = 0 .. extent-1. `lanes` is the width of a vector loop.

    A vector loop may handle `interleave` vectors at once, each with its own accumulators.
    """

    index: Symbol
    extent: Size
    body: Block
    kind: LoopKind = "serial"
    lanes: int = 1
    interleave: int = 1


@dataclass(frozen=True, eq=False)
class If:
    """Runs one of two blocks."""

    condition: Expression
    then: Block
    otherwise: Block = ()


@dataclass(frozen=True, eq=False)
class While:
    """Runs the body as long as the condition holds."""

    condition: Expression
    body: Block


@dataclass(frozen=True, eq=False)
class Define:
    """A local variable, visible to the end of the block; `Read` gives its value."""

    local: str
    value: Expression


@dataclass(frozen=True, eq=False)
class Assign:
    """Gives a local variable another value."""

    local: str
    value: Expression


@dataclass(frozen=True, eq=False)
class Accumulate:
    """local = name(local, value), where `name` is a reduction. A maximum or minimum that
    `may_skip_nan` is that of the numbers, or NaN, if there are NaNs."""

    local: str
    name: str
    value: Expression
    may_skip_nan: bool = False


@dataclass(frozen=True, eq=False)
class Store:
    """buffer[indices] = value; nothing where the guard is false."""

    buffer: Buffer
    indices: Index
    value: Expression
    guard: Expression | None = None


@dataclass(frozen=True, eq=False)
class Allocate:
    """A local array, visible to the end of the block; its contents start undefined."""

    buffer: Buffer


@dataclass(frozen=True, eq=False)
class Fragment:
    """Declares rows x columns registers, visible to the end of the block."""

    name: str
    rows: int
    columns: int
    dtype: DType


@dataclass(frozen=True, eq=False)
class FragmentFill:
    """fragment[r, c] = value, in which `column` runs over the columns; 0 where c >= limit."""

    fragment: str
    column: Symbol
    value: Expression
    limit: Size


@dataclass(frozen=True, eq=False)
class FragmentMac:
    """fragment[r, c] += sum over j < terms of a.flat[a_offsets[i] + j]
                                             * b.flat[b_offset + c * group + j]
    for each r = rows[i], in the fragment's type.

    Offsets are in elements from the buffer's start. All columns of b are there, and whole groups:
    it is padded to the fragment's width. Of a only `terms` elements are read (None: a whole group).
    The product is fused with the sum (one rounding); in what order the products of a group of
    floats are added and rounded is the machine's business.
    """

    fragment: str
    rows: tuple[int, ...]
    a: Buffer
    a_offsets: tuple[Size, ...]
    b: Buffer
    b_offset: Size
    group: int = 1
    terms: int | None = None

    @property
    def products(self) -> int:
        """How many products every sum takes."""
        return self.group if self.terms is None else self.terms


@dataclass(frozen=True, eq=False)
class FragmentStore:
    """For every row r, runs stores[r] for column = 0 .. limit-1 (limit <= the columns).

    In their values, `FragmentElement(fragment, r)` is the fragment's element of that column.
    """

    fragment: str
    column: Symbol
    limit: Size
    stores: tuple[tuple[Store, ...], ...]


@dataclass(frozen=True, eq=False)
class Contract:
    """A tile of a contraction. For every row of row_begin .. row_begin + tile.rows - 1 and column
    of column_begin .. column_begin + tile.columns - 1 that are below the symbols' extents, runs
    the stores, in which `FragmentElement(sums, 0)` is

        the sum over k of left[batch, row, k] * right[batch, column, k]

    for k from depth_begin to depth_end - 1, as far as the operands are deep. In what order products
    of floats are added is the machine's business. `products` says what is multiplied: the elements
    (f16, bf16 and f32 exactly, sums are f32); "tf32" numbers, to which they are rounded or cut; or
    three bf16 numbers for every f32 ("bf16x3"), which is about as exact as f32.
    """

    sums: str
    dtype: DType
    left: Operand
    right: Operand
    batch: tuple[Size, ...]
    row: Symbol
    row_begin: Size
    column: Symbol
    column_begin: Size
    depth_begin: Size
    depth_end: Size
    stores: tuple[Store, ...]
    tile: Tile
    products: Products = "exact"

    @property
    def operands(self) -> tuple[Operand, ...]:
        """What it reads."""
        return self.left, self.right

    @property
    def fragments(self) -> dict[str, DType]:
        """The names that it defines, with their types."""
        return {self.sums: self.dtype}


LOWEST_SCORE = -1e30
"""The score at or below which a key of an attention counts as hidden."""


@dataclass(frozen=True, eq=False)
class Attend:
    """Rows of an attention. For every row of row_begin .. row_begin + tile.rows - 1 and every
    column, as far as there are such, runs the stores, in which `FragmentElement(results, 0)` is

        the sum over keys of weight[key] * values[batch, column, key]

    where weight[key] = exp(s[key]) / sum of exp(s) and s[key] is the value of `score`, in which
    `FragmentElement(scores, 0)` is the sum over k of queries[batch, row, k] * keys[batch, key, k].
    All in f32; weights may be rounded to the values' type before they are multiplied. Scores of
    keys from `key_end` on, if it is given, are LOWEST_SCORE at most in all rows of the tile: beside
    one that is larger by much they count for nothing.
    """

    scores: str
    results: str
    queries: Operand
    keys: Operand
    values: Operand
    batch: tuple[Size, ...]
    row: Symbol
    row_begin: Size
    key: Symbol
    column: Symbol
    score: Expression
    stores: tuple[Store, ...]
    tile: Tile
    key_end: Size | None = None

    @property
    def products(self) -> tuple[Contract, Contract]:
        """The scores of some rows, and the results; the weights' operand is that of the queries."""
        scores = Contract(
            sums=self.scores,
            dtype=f32,
            left=self.queries,
            right=self.keys,
            batch=self.batch,
            row=self.row,
            row_begin=self.row_begin,
            column=self.key,
            column_begin=0,
            depth_begin=0,
            depth_end=self.queries.depth_extent,
            stores=(),
            tile=replace(self.tile, columns=self.tile.depth),
        )
        return scores, replace(
            scores,
            sums=self.results,
            right=self.values,
            column=self.column,
            depth_end=self.key.extent or 0,
            stores=self.stores,
            tile=self.tile,
        )

    @property
    def operands(self) -> tuple[Operand, ...]:
        """What it reads."""
        return self.queries, self.keys, self.values

    @property
    def fragments(self) -> dict[str, DType]:
        """The names that it defines, with their types."""
        return {self.scores: f32, self.results: f32}


@dataclass(frozen=True, eq=False)
class SetDim:
    """Gives a data-dependent dimension symbol of the program its value (an i64)."""

    symbol: str
    value: Expression


@dataclass(frozen=True, eq=False)
class Fail:
    """Ends the run with an error if the condition holds (the kernel itself runs on)."""

    condition: Expression
    message: str


@dataclass(frozen=True, eq=False)
class Prefetch:
    """A hint that the element at this flat offset is read soon. `level` is that of the cache."""

    buffer: Buffer
    offset: Size
    level: int = 1


@dataclass(frozen=True, eq=False)
class Stream:
    """A hint: what the rest of the block stores to this buffer is not read soon, and may be written
    by streaming (non-temporal) stores."""

    buffer: Buffer


@dataclass(frozen=True, eq=False)
class Barrier:
    """Ends when every member of the team (they have numbers from 0) has begun it."""

    member: Size


Statement: TypeAlias = Union[
    For,
    If,
    While,
    Define,
    Assign,
    Accumulate,
    Store,
    Allocate,
    Fragment,
    FragmentFill,
    FragmentMac,
    FragmentStore,
    TileSetup,
    TileZero,
    TileLoad,
    TileStore,
    TileMac,
    Contract,
    Attend,
    SetDim,
    Fail,
    Prefetch,
    Stream,
    Barrier,
]
Block: TypeAlias = tuple[Statement, ...]


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel. Parameters: `buffers` in order (inputs, then outputs), and `symbols` in order.

    `outputs` counts the buffers at the end that are written. `operations` is an estimate of the
    work of one iteration of its parallel loop (of all work, for a team), in scalar operations: the
    runtime does not split what is too small. `members` is the most that a team can use.
    """

    name: str
    buffers: tuple[Buffer, ...]
    outputs: int
    symbols: tuple[str, ...]
    body: Block
    operations: Size = 1
    members: int = 1

    @property
    def has_team(self) -> bool:
        """Whether the outermost statement is a team loop."""
        return any(isinstance(loop, For) and loop.kind == "team" for loop in self.body)

    @property
    def parallel_extent(self) -> Size:
        """The trip count of the parallel loop; 1 for a kernel without one."""
        match self.body:
            case (For(kind="parallel") as loop,):
                return loop.extent
            case _:
                return 1
