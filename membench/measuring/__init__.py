"""One case in this process: its inputs, its check, its time, memory and traffic."""
