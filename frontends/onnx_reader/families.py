"""All families of operators: importing this module registers their rules."""

from __future__ import annotations

import bessemer.compiler.ops  # noqa: F401  (registers the operators that the rules build with)
from bessemer.compiler.errors import InternalError
from bessemer.frontends.onnx_reader import (  # noqa: F401  (each registers its rules)
    operators_activation,
    operators_affine,
    operators_arithmetic,
    operators_blocks,
    operators_bnb4,
    operators_branch,
    operators_cast,
    operators_contrib,
    operators_contrib_attention,
    operators_contrib_decoder,
    operators_contrib_experts,
    operators_contrib_images,
    operators_contrib_quantized,
    operators_convolution,
    operators_detection,
    operators_experimental,
    operators_index,
    operators_labels,
    operators_loop,
    operators_matmul,
    operators_ml,
    operators_move,
    operators_normalization,
    operators_pooling,
    operators_qonnx,
    operators_quantize,
    operators_random,
    operators_recurrent,
    operators_reduce,
    operators_repeat,
    operators_resize,
    operators_scan,
    operators_sequence,
    operators_shape,
    operators_signal,
    operators_strings,
    operators_svm,
    operators_text,
    operators_training,
    operators_trees,
)
from bessemer.frontends.onnx_reader.registry import RULES


def check_registered() -> None:
    """The rules are there."""
    if not RULES:
        raise InternalError("no rules for ONNX operators are registered")
