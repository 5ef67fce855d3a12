"""Bessemer compiles neural networks to native code.

The public names are loaded on first use, so that `import bessemer` costs nothing and a program
that only loads artifacts never imports LLVM or onnx.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bessemer.compiler.errors import CompileError, InternalError, UnsupportedError
    from bessemer.frontends.compile import compile
    from bessemer.frontends.profiling.profile import compile_profiled
    from bessemer.runtime.errors import ArtifactError, ExecutionError, InputError, RunError
    from bessemer.runtime.model import load

__version__ = "0.1.0"
__all__ = [
    "ArtifactError",
    "CompileError",
    "ExecutionError",
    "InputError",
    "InternalError",
    "RunError",
    "UnsupportedError",
    "compile",
    "compile_profiled",
    "load",
]

_HOME = {
    "ArtifactError": "bessemer.runtime.errors",
    "CompileError": "bessemer.compiler.errors",
    "ExecutionError": "bessemer.runtime.errors",
    "InputError": "bessemer.runtime.errors",
    "InternalError": "bessemer.compiler.errors",
    "RunError": "bessemer.runtime.errors",
    "UnsupportedError": "bessemer.compiler.errors",
    "compile": "bessemer.frontends.compile",
    "compile_profiled": "bessemer.frontends.profiling.profile",
    "load": "bessemer.runtime.model",
}

# In a source tree the other packages (compiler, runtime, frontends) lie beside this folder, not in
# it. Python started there finds this folder even when a wheel is installed: it must find the rest.
_beside = Path(__file__).parent.parent
if (_beside / "pyproject.toml").is_file() and (_beside / "compiler").is_dir():
    __path__.append(str(_beside))


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
