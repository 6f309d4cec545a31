"""The regression gate: which result files are compared, what counts as slower, and what to say of it. No torch."""
