"""Writes kernels of tiles: a parallel loop over contractions or attentions, each of which is the
work of one block."""

from __future__ import annotations

from bessemer.compiler.codegen.kernels.cpu import emit_store
from bessemer.compiler.codegen.ptx.device_state import DeviceState
from bessemer.compiler.codegen.ptx.kernel import begin, emit_device_kernel, finish
from bessemer.compiler.codegen.ptx.kernel_code import DeviceCode
from bessemer.compiler.codegen.ptx.tiles import attention_mma, gemm_pipeline, gemm_wgmma
from bessemer.compiler.codegen.ptx.words import wide
from bessemer.compiler.codegen.values import Value
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.device import ThreadMapping
from bessemer.compiler.ir.loops import Attend, Contract, For, Kernel
from bessemer.compiler.targets.nvptx import DeviceTarget


def contraction_of(kernel: Kernel) -> tuple[For, Contract] | None:
    """The loop and the statement of a kernel that is one contraction; None for any other kernel."""
    match kernel.body:
        case (For(kind="parallel", body=(Contract() as contract,)) as loop,):
            return loop, contract
        case _:
            return None


def emit_kernel(kernel: Kernel, target: DeviceTarget, mapping: ThreadMapping) -> DeviceCode:
    """The code of any kernel. Raises InternalError for statements that this machine cannot
    execute."""
    if contraction_of(kernel) is not None:
        return emit_contraction(kernel, target, mapping)
    match kernel.body:
        case (For(kind="parallel", body=(Attend() as attend,)) as loop,):
            return _emit_attention(kernel, loop, attend, target, mapping)
    return emit_device_kernel(kernel, target, mapping)


def _emit_attention(
    kernel: Kernel, loop: For, attend: Attend, target: DeviceTarget, mapping: ThreadMapping
) -> DeviceCode:
    if not target.has_mma:
        raise InternalError(f"{kernel.name} needs mma, which {target.name} lacks")
    _check_threads(kernel, mapping, attention_mma.threads_of(attend))
    state = begin(kernel, target, mapping)
    state.indices[loop.index] = _block(state)
    shared = attention_mma.emit(state, attend)
    # Without this the assembler spills some bytes, for the sake of one block more on a processor.
    blocks = attention_mma.blocks_of_processor(attend, target)
    attributes = f'"nvvm.minctasm"="{blocks}"'
    return finish(state, attributes=attributes, shared_bytes=shared)


def _block(state: DeviceState) -> Value:
    """The number of the block, which is that of its tile."""
    return wide(state.writer).value(wide(state.writer).resized(state.register("ctaid.x")))


def _check_threads(kernel: Kernel, mapping: ThreadMapping, threads: int) -> None:
    if mapping.threads != threads or mapping.group != threads:
        raise InternalError(f"{kernel.name} is for groups of {threads} threads: {mapping}")


def emit_contraction(kernel: Kernel, target: DeviceTarget, mapping: ThreadMapping) -> DeviceCode:
    """The code of a kernel that is one contraction.

    Raises InternalError if the machine lacks what the tile's level of products needs.
    """
    found = contraction_of(kernel)
    if found is None:
        raise InternalError(f"{kernel.name} is not one contraction")
    loop, contract = found
    level = contract.tile.level
    able = {"simt": True, "mma": target.has_mma, "wgmma": target.has_wgmma}[level]
    if not able:
        raise InternalError(f"{kernel.name} needs {level}, which {target.name} lacks")
    if level == "wgmma":
        return gemm_wgmma.emit(kernel, loop, contract, target, mapping)
    threads = gemm_pipeline.threads_of(contract)
    _check_threads(kernel, mapping, threads)
    state = begin(kernel, target, mapping)
    state.indices[loop.index] = _block(state)
    shared = gemm_pipeline.emit(state, contract, emit_store)
    return finish(state, shared_bytes=shared)
