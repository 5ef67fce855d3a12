"""What the processes of commands end with; 0 is success."""

WRONG_MODEL, USAGE, UNSUPPORTED, FAILED_RUN, BUG = 1, 2, 3, 4, 5

INTERRUPTED = 130
"""By Ctrl-C, as shells count it: 128, and the number of the signal."""
