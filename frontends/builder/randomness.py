"""Random numbers in a network: new ones at each step of training, and for each draw.

Without training they are the same in every run. They depend on the path of the layer that draws
them, how often it has, and the step; on no seed of the network, nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.types import DType, f32
from bessemer.frontends.builder.tensor import Tensor, as_dtype


def uniform(like: Tensor, shape: Sequence[Size], dtype: DType | str = f32) -> Tensor:
    """Evenly distributed from 0 up to but without 1, in the network of `like`."""
    return _drawn("uniform", like, shape, dtype)


def normal(like: Tensor, shape: Sequence[Size], dtype: DType | str = f32) -> Tensor:
    """Normally distributed with mean 0 and deviation 1, in the network of `like`."""
    return _drawn("normal", like, shape, dtype)


def _drawn(operator: str, like: Tensor, shape: Sequence[Size], dtype: DType | str) -> Tensor:
    trace = like.trace
    step = [] if trace.step is None else [trace.step]
    made = like.builder.apply(
        operator, *step, shape=tuple(shape), dtype=as_dtype(dtype), seed=trace.random_seed()
    )
    return like.with_value(made)
