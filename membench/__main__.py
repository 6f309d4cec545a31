"""``python -m membench``: the command line without an installed script."""

from membench.cli import main

main()
