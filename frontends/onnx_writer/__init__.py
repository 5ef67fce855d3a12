"""Writes graphs as ONNX models."""
