"""Vector mathematics as LLVM IR."""
