"""A GPU in NumPy: runs the PTX that the compiler emits, under several legal schedules, and checks
how it is used.

Every register is one array over all threads of some blocks (CTAs); an instruction is one small
function over such arrays. `language` is the text, its parser, and where a kernel's variables lie;
`state` what a running kernel has: registers, memories, what is under way, and the vector clocks
that find races; `instructions` what the instructions do, a file a family. `driver` offers the CUDA
driver's calls, `launch` runs the blocks of a grid, `decode` makes a kernel ready, `run` chooses who
goes next, as a `schedule` says. Written from the PTX ISA manual.

Not modelled: time, bank conflicts, races in global memory, order between the lanes of a warp
through an mbarrier (its warp counts as one), device functions, swizzled boxes whose rows are
shorter than the swizzle's span, clusters of blocks. Approximate instructions give the nearest
number, but tanh.approx is as coarse as a device's.
"""
