"""Bundles in operation: false alarms accepted, history and rollback, the drift alarm."""
