"""Find, decode, prepare, batch, divide and identify images."""
