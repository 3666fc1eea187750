"""The Lightning training: trainer, callbacks, checkpoints and logs."""
