"""Cases to a result file: worker processes and their protocol, rounds, journal, resume."""
