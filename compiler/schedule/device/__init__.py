"""Lowers graphs to programs for GPUs: the parts of the schedule that differ from the
processors'."""
