"""Strict files that know no images: atomic writes, safetensors, ONNX, YAML and text tables."""
