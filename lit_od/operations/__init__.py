"""Bundles in use: images accepted as normal, history, the way back."""
