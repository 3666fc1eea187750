"""Export of torch modules to ONNX graphs, proven against torch."""
