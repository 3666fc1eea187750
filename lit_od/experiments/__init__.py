"""Published experiments, run again from end to end."""
