"""Exit codes of every command, said once. The gate's own (1, 3, 4) are in ``membench.gate.outcome``."""

USAGE = 2  # bad input
HARNESS = 5  # nothing was measured, or membench itself failed
INTERRUPTED = 130  # Ctrl-C or SIGTERM; what was finished is kept
