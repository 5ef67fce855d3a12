"""The families of cases, each of which runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.gpu.attention import attention_cases
from benchmarks.gpu.cases import Case
from benchmarks.gpu.contractions import convolution_cases, gemm_cases
from benchmarks.gpu.networks import network_cases
from benchmarks.gpu.optimizers import optimizer_cases
from benchmarks.gpu.pointwise import movement_cases, pointwise_cases, reduction_cases
from benchmarks.gpu.rows import row_cases

FAMILIES: dict[str, Callable[[bool], list[Case]]] = {
    "pointwise": pointwise_cases,
    "rows": row_cases,
    "reductions": reduction_cases,
    "movement": movement_cases,
    "gemm": gemm_cases,
    "convolutions": convolution_cases,
    "attention": attention_cases,
    "optimizers": optimizer_cases,
    "networks": network_cases,
}
"""By name; True asks for small sizes, which the interpreter can do."""
