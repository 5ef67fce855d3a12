"""A GPU in NumPy: runs the PTX that the compiler emits, under several legal schedules, and checks
how it is used.

Every register is one array over all threads of some blocks (CTAs); an instruction is one small
function over such
arrays. The files by what they hold: `parse` and `syntax` (the text), `machine` (the state), `run`
(who goes next),
the instruction families (`integers`, `floats`, `conversion`, `bits`, `compare`, `moves`, `loads`,
`atomics`,
`warps`, `barriers`, `mbarriers`, `async_copies`, `bulk_copies`, `tensor_copies`, `matrix`,
`wgmma`), `races` (vector
clocks) and `driver` (the CUDA driver's calls on top of it). Written from the PTX ISA manual.
"""
