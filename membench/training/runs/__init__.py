"""A scenario of level training: trials that choose rates, then paired seeds, each a process; several at once."""
