"""Functions that write what no operator of its own is for."""
