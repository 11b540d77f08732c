"""What a command ends with. "Could not check" never looks like a pass or a failure."""

VERIFIED, DIVERGED, COULD_NOT_CHECK = 0, 1, 2
INTERRUPTED, BROKEN_PIPE = 130, 141  # the shell's convention: 128 + SIGINT, 128 + SIGPIPE
