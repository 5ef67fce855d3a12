"""The compiler: from a graph to machine code."""
