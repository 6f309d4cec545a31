"""Value rows: in device memory, in host memory, in eight bits; and their gradients."""
