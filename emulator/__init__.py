"""A GPU in NumPy: runs the PTX that the compiler emits, under several legal schedules, and checks
how it is used.

Every register is one array over all threads of some blocks (CTAs); an instruction is one small
function over such arrays. The files by what they hold: `parse` and `syntax` (the text), `decode`
and `order` (a kernel made ready), `machine` (the state), `run` (who goes next), the instruction
families (`integers`, `bits`, `floats`, `compare`, `conversion`, `moves`, `loads`, `atomics`,
`warps`, `barriers`, `mbarriers`, `async_copies`, `bulk_copies`, `bulk_stores`, `matrix`, `wgmma`),
`races` (vector clocks), `tensor_maps` and `descriptors` (layouts), `launch` and `driver` (the CUDA
driver's calls). Written from the PTX ISA manual.

Not modelled: time, bank conflicts, races in global memory, order between the lanes of a warp
through an mbarrier (its warp counts as one), device functions, swizzled boxes whose rows are
shorter than the swizzle's span, clusters of blocks. Approximate instructions give the nearest
number, but tanh.approx is as coarse as a device's.
"""
