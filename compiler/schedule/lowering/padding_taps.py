"""Tells a convolution's contraction which taps see nothing but padding: the loops over these begin
and end where the image does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.schedule.contraction.contraction import Contraction, merge_depth
from bessemer.compiler.schedule.convolution.padded_axes import padded_axes
from bessemer.compiler.schedule.lowering.contraction_forms import ConvolutionForm, Form


def without_padding(
    whole: Contraction, form: Form, convolution: Node, producers: Mapping[Value, Node]
) -> Contraction:
    """The contraction of a convolution of a padded input, with images where they save enough."""
    if not isinstance(form, ConvolutionForm):
        return whole
    depth, merged = list(whole.depth), merge_depth(whole.depth)
    groups = len(whole.rows) - len(form.row_order)
    for axis, (image, _) in padded_axes(convolution, producers).items():
        row, tap = groups + form.row_order.index(1 + axis), form.depth_order.index(axis)
        if depth[tap] in merged[:-1]:
            depth[tap] = replace(depth[tap], image=replace(image, row=row))
    return replace(whole, depth=tuple(depth))
