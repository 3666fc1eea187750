"""Detectors as nodes of an ONNX graph: the same scores in any runtime.

A form takes a `GraphBuilder`, a fitted detector and the name of the backbone's output, float32, and returns the name of
what it adds: of features scores (n,), double; of patches scores of cells (n, gh, gw), float32; of errors scores and
maps.
A detector's class names its form by import path, `onnx_form`.
"""
