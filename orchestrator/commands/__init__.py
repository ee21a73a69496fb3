"""Run the commands of the command line: each is a function in a file of its own, which `orchestrator.__main__` lists.

The function's name is the command, its parameters are the flags, its docstring is the text of --help, and what it
returns is the exit code. Examples begin with "$ ", so that each stays in a line of its own. Everything that takes
time to import, as torch does, is imported inside the function: --help and wrong usage do not need it.
"""
