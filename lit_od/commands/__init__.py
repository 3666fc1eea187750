"""One module a command: `add_arguments(parser)` and `run(args, overrides)`; its docstring is its help."""
