"""Training with Lightning: trainer, callbacks, checkpoints and logs."""
