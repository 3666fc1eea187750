"""Scoring with bundles: scores, decisions, heat maps and rows."""
