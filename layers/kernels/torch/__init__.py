"""The operators by torch's own calls: they run on any device, and replace the other paths where those cannot run."""
