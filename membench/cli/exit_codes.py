"""Exit codes of every command, said once."""

USAGE = 2  # bad input
HARNESS = 5  # nothing was measured, or membench itself failed
INTERRUPTED = 130  # Ctrl-C or SIGTERM; what was finished is kept
