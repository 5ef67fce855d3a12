"""The exit codes of the commands; 0 is success."""

WRONG_MODEL, UNSUPPORTED, FAILED_RUN, BUG = 1, 3, 4, 5
"""2 is a usage error, which typer finds."""

INTERRUPTED = 130
"""By Ctrl-C, as shells count it: 128, and the number of the signal."""
