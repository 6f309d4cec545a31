"""What this machine is: its devices, clocks, energy, limits and published rates, and whether two are the same."""
