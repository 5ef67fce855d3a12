"""The rules that read ONNX operators, a file for each family."""
