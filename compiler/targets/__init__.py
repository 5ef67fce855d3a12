"""Machines as data: vector widths, registers, features."""
