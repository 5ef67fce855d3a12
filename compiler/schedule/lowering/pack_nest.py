"""The loops that pack the right operand of a product while the model runs."""

from __future__ import annotations

from bessemer.compiler.schedule.lowering.lower import Lowering
from bessemer.compiler.schedule.nests.interleave import lower_interleaved
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import Nest, lower_nest
from bessemer.compiler.schedule.nests.turn import lower_turned


def pack_nest(piece: Piece, lowering: Lowering) -> Nest:
    """The loops for a piece whose symbols are those of `packed_element`'s index."""
    lanes = lowering.lanes
    nest = lowering.vectorize and (lower_turned(piece, lanes) or lower_interleaved(piece, lanes))
    return nest or lower_nest(piece, lanes, lowering.vectorize)
