"""The float64 reference, which is the specification, and what is checked against it."""
