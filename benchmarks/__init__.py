"""Measurements over many models: speed, exactness, compile time, memory."""
