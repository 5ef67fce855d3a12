"""Every example of every operator computes the same when written as ONNX."""

from typing import Any

import numpy as np
import onnx
import pytest

from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.types import TensorType, dtype_of
from bessemer.frontends.onnx_writer.write import write_onnx
from tests.onnx_reader.onnx_runs import assert_near, run_written
from tests.op_cases import Case, each_case

RECURRENT = ("lstm", "gru", "rnn")


def _has_no_equivalent(case: Case) -> bool:
    name, given, dtype = case.operator.name, case.attributes, case.arrays[:1]
    if name in ("uniform", "normal"):
        return True
    is_integer = bool(dtype) and dtype[0].dtype.kind in "iu"
    is_window = name in ("conv_transpose", "average_pool")
    pads = [*given["low"], *given["high"]] if is_window else []
    match name:
        case "shl" | "shr":
            return dtype[0].dtype.kind == "i"
        case "conv":
            return is_integer
        case "conv_transpose":
            return is_integer or min(pads, default=0) < 0
        case "average_pool":
            return min(pads, default=0) < 0 and not given["count_include_pad"]
        case "cast":
            return any(one.is_storage for one in (dtype_of(case.arrays[0]), given["dtype"]))
        case "reinterpret" | "matmul_blocks" | "matmul_rounded" | "round_blocks" | "tensor_scatter":
            return True  # in later operator sets, and in com.microsoft
        case "linear_attention":
            return True  # in a later operator set
        case "byte_lstm":
            return True  # DynamicQuantizeLSTM rounds its input, too
        case "lstm" | "gru" | "rnn":
            return bool(given.get("keeps_steps"))
        case "deform_columns":
            return True  # a part of DeformConv
        case "plane_conv":
            return True  # a form of Conv
        case "resize_positions" | "mix_neighbours" | "neighbour_place" | "neighbour_weight":
            return True  # parts of Resize
        case _ if name.endswith("_gradient") or name == "depthwise_gradient_parts":
            return True  # ONNX has no training
        case _ if name == "normalize_channels" or name.startswith("channel_"):
            return True  # nor its batch normalization
        case "tree_ensemble":
            return True  # its tables are inputs here, see test_onnx_trees.py
        case "cumulative":
            return given.get("reduction") == "mul"
        case "col2im":
            return case.name in ("col2im-2", "col2im-3")  # blocks do not cover the image
        case _:
            return False


def _is_otherwise_elsewhere(case: Case) -> bool:
    """Where onnxruntime does otherwise on purpose or by mistake, and ONNX leaves it open."""
    name, given = case.operator.name, case.attributes
    floats = [a.astype(np.float64) for a in case.arrays if a.dtype.kind not in "iub"]
    has_nan = any(np.isnan(array).any() for array in floats)
    match name:
        case "cast":
            return bool(floats) and given["dtype"].is_integer  # beyond the integers' range
        case "arg_max" | "arg_min" | "top_k" | "max_pool" | "unique":
            return has_nan
        case "lstm" | "gru" | "rnn":
            is_short = given.get("has_lengths") and 0 in case.arrays[-1 - _own_inputs(given)]
            is_odd = "softplus" in given.get("activations", ())  # overflows there
            return bool(is_short or is_odd or case.arrays[0].dtype == np.float64)
        case "resize":
            is_rounded = case.arrays[0].dtype.kind in "iu" and given.get("mode") != "nearest"
            return is_rounded or given.get("coordinate") == "align_corners"
        case "deform_conv":
            return case.arrays[0].ndim != 4  # onnxruntime has it for pictures only
        case "reduce_prod" | "pow":
            return case.arrays[0].dtype.itemsize == 1  # overflows, and saturates there
        case "div" | "trunc_div" | "mod" | "fmod":
            return case.arrays[0].dtype.kind in "iu" and 0 in case.arrays[1]
        case _:
            return False


def _own_inputs(given: Any) -> int:
    """The inputs of a recurrent operator that come after the lengths."""
    return int(given.get("has_peepholes", False)) + int(given.get("linear_before_reset", False))


@each_case()
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_operator_is_written_or_refused(case: Case) -> None:
    b = GraphBuilder("one_operator")
    inputs = [
        b.input(f"x{k}", TensorType(dtype_of(array), array.shape))
        for k, array in enumerate(case.arrays)
    ]
    outputs = b.apply_many(case.operator.name, *inputs, **case.attributes)
    graph = b.finish(outputs, [f"y{k}" for k in range(len(outputs))])
    if _has_no_equivalent(case):
        with pytest.raises(UnsupportedError, match=case.operator.name):
            write_onnx(graph)
        return
    if _is_otherwise_elsewhere(case):
        onnx.checker.check_model(write_onnx(graph), full_check=True)
        return
    expected = case.operator.compute(case.arrays, case.attributes)
    results = run_written(graph, {f"x{k}": array for k, array in enumerate(case.arrays)})
    for actual, wanted in zip(results, expected, strict=True):
        assert_near(actual, np.asarray(wanted), max(case.tolerance, 1e-5))
