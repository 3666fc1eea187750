"""Bundles in operation: accepted false alarms, history, drift alarm."""
