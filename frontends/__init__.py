"""The ways in: ONNX files, Python model definitions and the command line."""
