"""What an artifact has around its kernels, as LLVM IR: contexts, threads, weights, entries."""
