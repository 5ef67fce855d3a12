"""The scraps by which the emulator is tested are PTX to NVIDIA's assembler too, where it is found.

Emulator and scraps share one reading of the manual; the assembler at least knows the grammar, the
types of operands and which modifiers go together.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from emulator.decode import decode
from emulator.language.parse import parse_module
from tests.device.test_device_registers import assembler
from tests.emulator import test_emulator_async as copies
from tests.emulator import test_emulator_tensor_copies as tensors
from tests.emulator import test_emulator_wgmma as products
from tests.emulator.emulated import kernel

ELEMENTWISE = """
add.cc.u32 %r1, %r2, %r3; addc.u32 %r1, %r2, %r3; madc.hi.u32 %r1, %r2, %r3, %r4;
mul.hi.u16 %rs1, %rs2, %rs3; mad.wide.s32 %rd1, %r1, %r2, %rd2; dp4a.u32.s32 %r1, %r2, %r3, %r4;
bfe.s32 %r1, %r2, %r3, %r4; bfi.b64 %rd1, %rd2, %rd3, %r1, %r2; lop3.b32 %r1, %r2, %r3, %r4, 0xe8;
prmt.b32 %r1, %r2, %r3, %r4; shf.l.clamp.b32 %r1, %r2, %r3, %r4; bfind.shiftamt.u64 %r1, %rd1;
min.s16x2 %r1, %r2, %r3; bmsk.clamp.b32 %r1, %r2, %r3; brev.b64 %rd1, %rd2; cnot.b32 %r1, %r2;
fma.rn.relu.bf16x2 %r1, %r2, %r3, %r4; add.rz.f64 %d1, %d2, %d3; div.full.f32 %f1, %f2, %f3;
max.xorsign.abs.f32 %f1, %f2, %f3; tanh.approx.bf16x2 %r1, %r2; ex2.approx.ftz.bf16 %rs1, %rs2;
setp.lt.and.f32 %p1|%p2, %f1, %f2, !%p3; setp.gt.f16x2 %p1|%p2, %r1, %r2;
testp.normal.f32 %p1, %f1;
set.lt.u32.s32 %r1, %r2, %r3; slct.u32.s32 %r1, %r2, %r3, %r4; copysign.f32 %f1, %f2, %f3;
cvt.rna.tf32.f32 %r1, %f1; cvt.rz.relu.bf16x2.f32 %r1, %f1, %f2; cvt.rpi.sat.f32.f32 %f1, %f2;
cvt.rn.satfinite.e4m3x2.f32 %rs1, %f1, %f2; cvt.rn.f16x2.e5m2x2 %r1, %rs1; cvt.rni.s8.f64 %rs1, %d1;
"""
TOGETHER = """
shfl.sync.up.b32 %r1|%p1, %r2, 3, 0x1c00, -1; match.all.sync.b32 %r1|%p1, %r2, -1;
vote.sync.ballot.b32 %r1, %p1, -1; redux.sync.xor.b32 %r1, %r2, -1; elect.sync %r1|%p1, -1;
bar.arrive 3, 128; bar.red.popc.u32 %r1, 0, %p1; barrier.cta.red.and.aligned.pred %p1, 0, %p2;
bar.warp.sync -1;
atom.global.inc.u32 %r1, [%rd1], %r2; red.relaxed.gpu.global.add.noftz.bf16x2 [%rd1], %r1;
red.global.add.v4.f32 [%rd1], {%f1, %f2, %f3, %f4}; atom.shared.cas.b64 %rd1, [%r1], %rd2, %rd3;
st.shared::cluster.b32 [%r1], %r2;
isspacep.shared %p1, %rd1;
mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r1]; griddepcontrol.wait;
movmatrix.sync.aligned.m8n8.trans.b16 %r1, %r2; setmaxnreg.inc.sync.aligned.u32 40;
mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%r1, %r2, %r3, %r4}, {%r5, %r6, %r7, %r8},
    {%r9, %r10}, {%r1, %r2, %r3, %r4};
mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d1, %d2}, {%d3}, {%d4}, {%d1, %d2};
"""
WGMMA = products._body(64, "k16.f32.bf16.bf16", ", 1, 1, 0, 1", "%rd2", (0, 0), 32)
FROM_REGISTERS = products._body(
    64, "k16.f32.bf16.bf16", ", 1, 1, 1", "{%r40, %r41, %r42, %r43}", (0, 0), 32
)
TILE = (
    "mov.u32 %r1, 0; cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes "
    "[room], [%rd10, {%r1, %r1}], [full];"
)
WINDOWS = (
    "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
    "[room], [%rd10, {%r0, %r1, %r2, %r3}], [full], {%rs1, %rs2};"
)
TEXTS = {
    "element by element": kernel(1, ELEMENTWISE),
    "together": kernel(1, TOGETHER, directives=".maxntid 128, 1, 1\n.minnctapersm 1"),
    "groups": kernel(2, copies.TWO_GROUPS.format(left=1, barrier="", offset=4), copies.ROOM),
    "pipeline": kernel(2, copies.pipeline(), copies.ROOM),
    "bulk store": kernel(
        2, copies.STORE.format(fence=copies.PROXY, wait=copies.READ, after=""), copies.ROOM
    ),
    "wgmma": kernel(2, WGMMA, products.ROOM),
    "wgmma from registers": kernel(2, FROM_REGISTERS, products.ROOM),
    "tile": tensors.KERNEL.replace("LOAD", TILE).replace("BYTES", "1024"),
    "windows": tensors.KERNEL.replace("LOAD", WINDOWS).replace("BYTES", "1024"),
    "tensor store": tensors.STORE,
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_emulator_knows_them_all(name: str) -> None:
    for program in parse_module(TEXTS[name]).kernels.values():
        assert len(decode(program).operations) == len(program.instructions)


@pytest.mark.skipif(assembler() is None, reason="there is no ptxas here")
@pytest.mark.parametrize("name", TEXTS)
def test_the_assembler_takes_what_the_emulator_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / "scrap.ptx").write_text(TEXTS[name])
    command = [str(assembler()), "-arch=sm_90a", "scrap.ptx", "-o", "scrap.cubin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
