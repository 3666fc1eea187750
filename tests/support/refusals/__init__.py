"""Everything that a user may do wrong: a table, and what carries it out case by case."""
