"""All that is measured, by name: each a function of the plan, and its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.bits import measure_bits, show_bits
from benchmarks.compile_time import measure_compile_times, show_compile_times
from benchmarks.conformance import measure_conformance, show_conformance
from benchmarks.exactness import measure_exactness, show_exactness
from benchmarks.exports import measure_exports, show_exports
from benchmarks.kernels import measure_kernels, show_kernels
from benchmarks.light_nets import light_models
from benchmarks.matrix_unit import measure_matrix_unit, show_matrix_unit
from benchmarks.memory import measure_memory, show_memory
from benchmarks.model_accuracy import measure_model_accuracy, show_model_accuracy
from benchmarks.operators import measure_operators, show_operators
from benchmarks.peers import measure_peers, show_peers
from benchmarks.plan import Plan
from benchmarks.products_bf16 import measure_products_bf16, show_products_bf16
from benchmarks.record import Row
from benchmarks.row_kernels import measure_row_kernels, show_row_kernels
from benchmarks.run_models import Subject, find_models, measure_models, show_models
from benchmarks.small_networks import measure_small, show_small
from benchmarks.training.measure import measure_training, show_training
from bessemer.frontends.cli.output import write_note

Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Section:
    """`measure` fills the plan's record and gives the rows; `show` makes a table of them."""

    title: str
    measure: Callable[[Plan], dict[str, Row]]
    show: Callable[[Mapping[str, Row]], Table]


def _corpus(plan: Plan) -> dict[str, Row]:
    if plan.corpus is None:
        write_note("corpus: left out; `python -m benchmarks fetch FOLDER`, then --corpus FOLDER")
        return {}
    return measure_models("corpus", find_models(plan.corpus), plan)


def _light(plan: Plan) -> dict[str, Row]:
    subjects = [Subject(path.stem, path) for path in light_models()]
    return measure_models("light", subjects, plan)


SECTIONS = {
    "peers": Section("Models against other systems, interleaved", measure_peers, show_peers),
    "corpus": Section("Real models against onnxruntime", _corpus, show_models),
    "light": Section("The onnx package's light networks", _light, show_models),
    "exports": Section("Networks of torch's packages", measure_exports, show_exports),
    "kernels": Section("Kernels by the peak beside them", measure_kernels, show_kernels),
    "products_bf16": Section("bf16 products", measure_products_bf16, show_products_bf16),
    "matrix_unit": Section("The matrix unit", measure_matrix_unit, show_matrix_unit),
    "operators": Section("Graphs of an operator", measure_operators, show_operators),
    "row_kernels": Section("Norms by copying", measure_row_kernels, show_row_kernels),
    "small": Section("Small networks from Python", measure_small, show_small),
    "compile_time": Section("Compile time", measure_compile_times, show_compile_times),
    "memory": Section("Memory", measure_memory, show_memory),
    "bits": Section("Reproducibility", measure_bits, show_bits),
    "exactness": Section("Exactness", measure_exactness, show_exactness),
    "model_accuracy": Section(
        "Predicted and measured", measure_model_accuracy, show_model_accuracy
    ),
    "training": Section("Training against torch", measure_training, show_training),
    "conformance": Section("ONNX conformance", measure_conformance, show_conformance),
}
