"""The passes of a compilation, in order: `passes_of` gives those for some options and a target.

To add a pass, import it and put it into one of the lists below, after the passes whose results its
pattern needs.
"""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.options import Options
from bessemer.compiler.passes.convolution.convolve_planes import convolve_planes
from bessemer.compiler.passes.convolution.decompose_conv_transpose import decompose_conv_transpose
from bessemer.compiler.passes.convolution.fill_tile_rows import fill_tile_rows
from bessemer.compiler.passes.convolution.fold_batch_norm import fold_batch_norm
from bessemer.compiler.passes.convolution.move_strides import move_strides
from bessemer.compiler.passes.convolution.sample_deformed import sample_deformed
from bessemer.compiler.passes.convolution.separate_padding import separate_padding
from bessemer.compiler.passes.convolution.sum_tap_planes import sum_tap_planes
from bessemer.compiler.passes.convolution.widen_convolutions import widen_convolutions
from bessemer.compiler.passes.gathers.fold_tables import fold_tables
from bessemer.compiler.passes.gathers.gather_windows import gather_windows
from bessemer.compiler.passes.gathers.multiply_looked_up import multiply_looked_up
from bessemer.compiler.passes.gathers.multiply_tables import multiply_tables
from bessemer.compiler.passes.gathers.resize_as_floats import resize_as_floats
from bessemer.compiler.passes.gathers.resize_by_axes import resize_by_axes
from bessemer.compiler.passes.gathers.resize_pixels_alone import resize_pixels_alone
from bessemer.compiler.passes.gathers.tabulate_resizes import tabulate_resizes
from bessemer.compiler.passes.gathers.take_whole_rows import take_whole_rows
from bessemer.compiler.passes.layout.lay_out_once import lay_out_once
from bessemer.compiler.passes.layout.move_transposes import move_transposes
from bessemer.compiler.passes.layout.transpose_products import transpose_products
from bessemer.compiler.passes.precision.compute_half_wide import compute_half_wide
from bessemer.compiler.passes.precision.keep_narrow_weights import keep_narrow_weights
from bessemer.compiler.passes.precision.multiply_pairs import multiply_pairs
from bessemer.compiler.passes.precision.store_bfloat16 import store_bfloat16, store_bfloat16_weights
from bessemer.compiler.passes.precision.widen_half import widen_bfloat16, widen_half
from bessemer.compiler.passes.quantization.move_quantization import move_quantization
from bessemer.compiler.passes.quantization.multiply_quantized import multiply_quantized
from bessemer.compiler.passes.quantization.narrow_integers import narrow_integers
from bessemer.compiler.passes.quantization.quantize_sums import quantize_sums
from bessemer.compiler.passes.quantization.round_activations import round_activations
from bessemer.compiler.passes.quantization.tabulate_bytes import tabulate_bytes
from bessemer.compiler.passes.simplification.flush_denormals import flush_denormals
from bessemer.compiler.passes.simplification.fold_constants import fold_constants
from bessemer.compiler.passes.simplification.merge_equal import merge_equal
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from bessemer.compiler.passes.sums.block_channel_sums import block_channel_sums
from bessemer.compiler.passes.sums.group_statistics import group_statistics
from bessemer.compiler.passes.sums.mask_leaves import mask_leaves
from bessemer.compiler.passes.sums.scatter_sums import scatter_sums
from bessemer.compiler.passes.sums.share_image_sums import share_image_sums
from bessemer.compiler.passes.sums.split_extrema import split_extrema
from bessemer.compiler.passes.sums.split_forests import split_forests
from bessemer.compiler.passes.sums.split_sums import split_sums
from bessemer.compiler.passes.sums.sum_channels_first import sum_channels_first
from bessemer.compiler.passes.sums.sum_pixels import sum_pixels
from bessemer.compiler.passes.sums.total_gate_gradients import total_gate_gradients
from bessemer.compiler.targets.machine import Target

Pass = Callable[[Graph], Graph]

_BEFORE_ROUNDING: tuple[Pass, ...] = (
    remove_dead,
    move_quantization,
    multiply_quantized,
    fold_constants,
    simplify,
    merge_equal,
    compute_half_wide,
    fold_tables,
    take_whole_rows,
    gather_windows,
    sample_deformed,
    fold_batch_norm,
    move_strides,
    widen_half,
    decompose_conv_transpose,
    sum_tap_planes,
    convolve_planes,
    block_channel_sums,
    group_statistics,
    multiply_tables,
    resize_as_floats,
    move_transposes,
    resize_by_axes,
    resize_pixels_alone,
    tabulate_resizes,
    narrow_integers,
    widen_convolutions,
)
_AFTER_ROUNDING: tuple[Pass, ...] = (
    separate_padding,
    transpose_products,
    fold_constants,
    simplify,
    merge_equal,
    quantize_sums,
    total_gate_gradients,
    sum_channels_first,
    share_image_sums,
    sum_pixels,
    multiply_looked_up,
    split_extrema,
    split_forests,
    mask_leaves,
    lay_out_once,
    scatter_sums,
    split_sums,
)
_LAST: tuple[Pass, ...] = (
    remove_dead,
    flush_denormals,
)
PASSES = (*_BEFORE_ROUNDING, *_AFTER_ROUNDING, *_LAST)
"""The passes of every target, which make a graph small and canonical, in order."""


def passes_of(options: Options, target: Target) -> tuple[Pass, ...]:
    """The passes of a compilation: PASSES, and those that the precision and the target need."""
    if options.optimize == 0:
        return (remove_dead,)
    before = list(_BEFORE_ROUNDING)
    if options.precision == "bfloat16" and target.has_dot_bf16:
        # Products are twice as fast, and would be rounded before they are added up.
        before.remove(sum_tap_planes)
    rounding, machine = _rounding(options, target), _of_machine(options, target)
    return (*before, *rounding, *_AFTER_ROUNDING, *machine, *_LAST)


def _rounding(options: Options, target: Target) -> list[Pass]:
    """The passes that settle which numbers are narrower than float32."""
    found: list[Pass] = []
    if options.precision == "bfloat16":
        # Weights that a pass has transposed are constants again before they are rounded.
        store = store_bfloat16 if target.has_dot_bf16 else store_bfloat16_weights
        found += [fold_constants, store]
        if target.has_dot_bf16:
            found.append(multiply_pairs)
    if not target.has_dot_bf16:
        found.append(widen_bfloat16)
    if target.has_dot_int8 and options.precision != "strict":
        found.append(round_activations)
    return found


def _of_machine(options: Options, target: Target) -> list[Pass]:
    """The passes for instructions that only some machines have."""
    found: list[Pass] = [tabulate_bytes] if target.has_byte_lookup else []
    if target.has_half_conversion and not target.has_tiles:
        found.append(keep_narrow_weights)
    if options.precision == "bfloat16" and target.has_tiles:
        found.append(fill_tile_rows)
    return found
