"""The public layers at small, awkward sizes."""

import torch

from layers import build
from layers.spec import ExternalSpec

# 2·F bytes is a multiple of 16, without which torch's grouped product refuses bf16
D, B, N, H, DK, E, K, F = 72, 19, 196, 3, 20, 10, 3, 24
MEMORY = {"num_keys": N, "heads": H, "key_dim": DK, "top_k": 5}
MOE = {"num_experts": E, "expert_hidden": F, "top_k": K}
PEERS = {
    "product_key_memory": ("product_key_memory", MEMORY),
    "embedding_bag": ("embedding_bag", MEMORY),
    "embedding_bag_sparse": ("embedding_bag", {**MEMORY, "sparse": True}),
    "peer_pytorch": ("peer_pytorch", MEMORY),
    **{
        f"{block}_{experts}": ("transformers_moe", {**MOE, "block": block, "experts": experts})
        for block in ("mixtral", "qwen3_moe", "olmoe")
        for experts in ("eager", "batched_mm", "grouped_mm")
    },
}


def peer(name, dtype="float32", seed=0):
    file, options = PEERS[name]
    factory = f"layers.public.{file}:build"
    spec = ExternalSpec(model_dim=D, dtype=dtype, factory=factory, options=options)
    return build(spec, seed=seed)


def tokens(seed, dtype=torch.float32):
    return torch.randn(B, D, generator=torch.Generator().manual_seed(seed)).to(dtype)
