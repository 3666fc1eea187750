"""Pictures of scores, curves and images."""
