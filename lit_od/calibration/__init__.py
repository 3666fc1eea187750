"""Threshold rules, p-values and binomial intervals."""
