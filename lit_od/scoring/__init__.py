"""A bundle to verdicts, heat maps and rows."""
