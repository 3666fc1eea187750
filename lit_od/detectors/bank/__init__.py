"""Memory banks: their options, rows, coresets and neighbour search."""
