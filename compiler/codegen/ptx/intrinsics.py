"""Lists the LLVM intrinsics that kernels for GPUs may use.

LLVM ends the process at an intrinsic that its back end has no instructions for. So code that names
any other intrinsic is not compiled, and a test compiles each of these once, in a process of its
own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bessemer.compiler.errors import InternalError

GENERIC = frozenset(
    {
        "abs", "ceil", "copysign", "ctlz", "ctpop", "cttz", "fabs", "floor", "fma", "masked.gather",
        "masked.load", "masked.scatter", "masked.store", "maxnum", "roundeven", "smax", "smin",
        "sqrt", "trunc", "umax", "umin", "vector.reduce.or",
    }
)  # fmt: skip
"""LLVM's generic intrinsics, without the type at the end of their names."""
NVIDIA = frozenset(
    {
        "bar.warp.sync", "barrier.cta.sync.aligned.all", "read.ptx.sreg.ctaid.x",
        "read.ptx.sreg.tid.x", "shfl.sync.bfly.i32",
    }
)  # fmt: skip
"""NVIDIA's intrinsics, after `llvm.nvvm.`; matrix_intrinsics.py has those of matrix products."""

_NAME = re.compile(r"@llvm\.([\w.]+)")
_TYPE = re.compile(r"\.(v\d+)?([fip]\d+|bf16)(?=\.|$)")


def check_intrinsics(declarations: Iterable[str], more: frozenset[str] = frozenset()) -> None:
    """Raises InternalError for a declaration of an intrinsic that is not on the list.

    `more` are further names after `llvm.nvvm.` that are known to work.
    """
    for declaration in declarations:
        for name in _NAME.findall(declaration):
            if name.startswith("nvvm."):
                if name.removeprefix("nvvm.") in NVIDIA | more:
                    continue
            elif _TYPE.sub("", name) in GENERIC:
                continue
            raise InternalError(f"llvm.{name} is not on the list of what GPUs are known to have")
