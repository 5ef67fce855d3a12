"""Graphs to programs for GPUs: what differs from the processors' schedules."""
