"""The bundle: a folder that holds all that scoring needs."""
