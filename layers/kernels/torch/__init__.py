"""The operators by torch's own calls: on any device, and the fallback of the other paths."""
