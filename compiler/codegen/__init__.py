"""From kernels to LLVM IR, machine code and the C header."""
