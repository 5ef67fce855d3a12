"""Fewer nodes for the same values: constants, equal and unused nodes, laws of arithmetic."""
