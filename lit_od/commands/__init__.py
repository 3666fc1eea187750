"""Commands of `lit-od`, one a module.

A module has `add_arguments(parser)` and `run(args, overrides)`; its docstring is the command's help.
"""
