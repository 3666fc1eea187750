"""Torch modules to proven ONNX graphs."""
