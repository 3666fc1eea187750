"""Heat maps by gradients, and the torch forms of detectors."""
