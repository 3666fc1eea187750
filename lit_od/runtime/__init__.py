"""Threads, the processes of one job, and ONNX Runtime sessions."""
