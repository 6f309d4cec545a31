"""Some steps of training a small layer."""

import torch

SMALL = {"model_dim": 24, "num_keys": 64, "heads": 2, "top_k": 4, "key_dim": 8, "dtype": "float32"}


def run_steps(layer, optimizer, generator, steps, *, fused):
    """Steps on random tokens, with the rows updated in the backward or after it."""
    for _ in range(steps):
        x = torch.randn(5, layer.spec.model_dim, generator=generator).to(layer.query.dtype)
        layer.zero_gradients()
        if fused:
            with optimizer.fused():
                layer(x).float().square().sum().backward()
        else:
            layer(x).float().square().sum().backward()
        optimizer.step()
