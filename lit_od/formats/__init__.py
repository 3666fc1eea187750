"""Strict file formats: atomic writes, safetensors, ONNX, YAML and text tables."""
