"""Lists the intrinsics of matrix products and of the copies for them, after `llvm.nvvm.`."""

from __future__ import annotations

MATRIX = frozenset(
    {
        "barrier.cta.red.or.aligned.all", "barrier.cta.sync.aligned.count",
        "cp.async.bulk.tensor.g2s.im2col.4d",
        "cp.async.bulk.tensor.g2s.tile.2d", "cp.async.bulk.tensor.g2s.tile.3d",
        "cp.async.bulk.tensor.g2s.tile.4d", "cp.async.bulk.tensor.g2s.tile.5d",
        "cp.async.ca.shared.global.4", "cp.async.ca.shared.global.4.s",
        "cp.async.ca.shared.global.8", "cp.async.ca.shared.global.8.s",
        "cp.async.cg.shared.global.16", "cp.async.cg.shared.global.16.s",
        "cp.async.commit.group", "cp.async.wait.group",
        "ex2.approx.ftz.f32",
        "fence.mbarrier_init.release.cluster",
        "ldmatrix.sync.aligned.m8n8.x4.b16.p3", "ldmatrix.sync.aligned.m8n8.x4.trans.b16.p3",
        "mbarrier.arrive.expect.tx.scope.cta.space.cta", "mbarrier.arrive.shared",
        "mbarrier.init.shared", "mbarrier.try.wait.parity.scope.cta.space.cta",
        "mma.m16n8k16.row.col.bf16", "mma.m16n8k16.row.col.f32.f32", "mma.m16n8k8.row.col.tf32",
        "read.ptx.sreg.nctaid.x",
        "setmaxnreg.dec.sync.aligned.u32", "setmaxnreg.inc.sync.aligned.u32",
        "wgmma.commit_group.sync.aligned", "wgmma.fence.sync.aligned",
        "wgmma.wait_group.sync.aligned",
    }
)  # fmt: skip
