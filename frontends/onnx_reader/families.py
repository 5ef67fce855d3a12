"""All families of operators: importing this module registers their rules."""

from __future__ import annotations

import bessemer.compiler.ops  # noqa: F401  (registers the operators that the rules build with)
from bessemer.compiler.errors import InternalError
from bessemer.frontends.onnx_reader.operators import (  # noqa: F401  (each registers its rules)
    activation,
    affine,
    arithmetic,
    beam_search,
    blocks,
    bnb4,
    branch,
    cast,
    contrib,
    contrib_attention,
    contrib_branches,
    contrib_crops,
    contrib_decoder,
    contrib_experts,
    contrib_gates,
    contrib_images,
    contrib_ngrams,
    contrib_quantized,
    contrib_search,
    contrib_sparse,
    convolution,
    detection,
    experimental,
    greedy_search,
    image_decoder,
    index,
    labels,
    linear_attention,
    loop,
    matmul,
    ml,
    move,
    normalization,
    pooling,
    qonnx,
    quantize,
    random,
    recurrent,
    reduce,
    repeat,
    resize,
    scan,
    sequence,
    shape,
    signal,
    state_convolution,
    strings,
    svm,
    text,
    training,
    trees,
)
from bessemer.frontends.onnx_reader.registry import RULES


def check_registered() -> None:
    """The rules are there."""
    if not RULES:
        raise InternalError("no rules for ONNX operators are registered")
