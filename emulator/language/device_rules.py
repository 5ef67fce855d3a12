"""What a device and its driver refuse before a kernel runs: shapes of launches, too much shared
memory, code for other devices. From the CUDA driver's manual and the tables of compute
capabilities.
"""

from __future__ import annotations

from bessemer.runtime.cuda.driver import DeviceError, Triple
from emulator.language.layout import lay_out_shared
from emulator.language.syntax import Instruction, Kernel, Module

MOST_THREADS = 1024
_MOST_BLOCK: Triple = (1024, 1024, 64)
_MOST_GRID: Triple = ((1 << 31) - 1, 65535, 65535)
_SHARED_KIB = {70: 96, 75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227}
"""By compute capability times ten: KiB of shared memory that a block may request."""
_OTHER_SHARED_KIB = 99
_MOST_STATIC = 48 << 10

_SINCE: tuple[tuple[tuple[str, ...], int, tuple[int, int]], ...] = (
    (("wgmma",), 90, (8, 0)),
    (("setmaxnreg",), 90, (8, 0)),
    (("cp", "async", "bulk"), 90, (8, 0)),
    (("mbarrier", "try_wait"), 90, (7, 8)),
    (("mbarrier",), 80, (7, 0)),
    (("fence", "mbarrier_init"), 90, (8, 0)),
    (("fence", "proxy"), 90, (8, 0)),
    (("elect",), 90, (8, 0)),
    (("stmatrix",), 90, (7, 8)),
    (("griddepcontrol",), 90, (7, 8)),
    (("cp", "async"), 80, (7, 0)),
    (("redux",), 80, (7, 0)),
    (("ldmatrix",), 75, (6, 5)),
)
"""Instructions by how they begin: the level, and the version of PTX, that has them."""
_ONLY_OF_ITS_KIND = ("wgmma", "setmaxnreg")
_NEWER_PRODUCTS = ("bf16", "tf32", "f64", "m16n8k16", "m16n8k32")


def invalid(message: str) -> DeviceError:
    """What the driver says to a call with an argument that it does not take."""
    return DeviceError(message, "CUDA_ERROR_INVALID_VALUE")


def most_shared(level: int) -> int:
    """Bytes of shared memory that a block may ask for."""
    return _SHARED_KIB.get(level, _OTHER_SHARED_KIB) << 10


def check_module(module: Module, level: int) -> None:
    """Raises DeviceError for code that a device of this level does not run, or that its text's own
    target does not have."""
    name = module.target.split(",")[0].strip().removeprefix("sm_")
    exact = name[-1:].isalpha()
    wanted = int(name.rstrip("abcdefgh"))
    if wanted > level or (exact and wanted != level):
        raise DeviceError(
            f"cuModuleLoadDataEx failed: the code is for {module.target}, the device is sm_{level}",
            "CUDA_ERROR_NO_BINARY_FOR_GPU",
        )
    for kernel in module.kernels.values():
        for one in kernel.instructions:
            problem = _problem(one, wanted, exact, module.version)
            if problem:
                raise DeviceError(
                    f"cuModuleLoadDataEx failed: kernel {kernel.name}, line {one.line} "
                    f"`{one.text[:80]}`: {problem}",
                    "CUDA_ERROR_INVALID_PTX",
                )


def _problem(one: Instruction, level: int, exact: bool, version: tuple[int, int]) -> str:
    opcode = one.opcode
    if opcode[0] in _ONLY_OF_ITS_KIND and not exact:
        return f"{opcode[0]} needs a target such as sm_90a"
    if opcode[0] == "mma" and level < 80 and any(map(one.has, _NEWER_PRODUCTS)):
        return "this product needs sm_80"
    for begin, since, text in _SINCE:
        if opcode[: len(begin)] == begin:
            if level < since:
                return f"{'.'.join(begin)} needs sm_{since}"
            if version < text:
                return f"{'.'.join(begin)} needs PTX {text[0]}.{text[1]}"
            return ""
    return ""


def static_shared(module: Module, kernel: Kernel) -> int:
    """Bytes of shared memory that a kernel has whatever a launch says."""
    return lay_out_shared(kernel, module.variables, 0)[0].size


def check_launch(
    module: Module,
    kernel: Kernel,
    grid: Triple,
    block: Triple,
    shared: int,
    allowed: int,
) -> None:
    """Raises DeviceError for a launch that the driver refuses; `allowed` is the dynamic shared
    memory that was asked for."""
    name = kernel.name
    if any(not 0 < one <= most for one, most in zip(grid, _MOST_GRID)):
        raise invalid(f"{name}: a grid of {grid} blocks is not possible")
    threads = block[0] * block[1] * block[2]
    if any(not 0 < one <= most for one, most in zip(block, _MOST_BLOCK)) or threads > MOST_THREADS:
        raise invalid(f"{name}: blocks of {block} threads are not possible")
    if kernel.required_threads is not None and kernel.required_threads != block:
        raise invalid(f"{name} is for blocks of {kernel.required_threads} threads, not {block}")
    if kernel.most_threads and threads > kernel.most_threads:
        raise invalid(f"{name} bears at most {kernel.most_threads} threads a block, not {threads}")
    own = static_shared(module, kernel)
    if own > _MOST_STATIC:
        raise invalid(f"{name} has {own} bytes of shared memory of its own")
    most = max(allowed, _MOST_STATIC - own)
    if shared > most:
        raise invalid(f"{name}: {shared} bytes of shared memory, {most} are allowed")
