"""Bundles in operation: the drift alarm."""
