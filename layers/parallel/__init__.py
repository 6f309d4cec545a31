"""Between the ranks that share a layer: what they give each other, simulated for one of them or real."""
