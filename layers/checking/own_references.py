"""The references of our own kinds of layers, by themselves and as the FFN of a block."""

from membench.layers.checking.layer_reference import DenseReference, MemoryReference, MoEReference, PeerReference
from membench.layers.checking.sampled_reference import SampledReference

OWN_REFERENCES: dict[str, type[SampledReference]] = {
    "dense": DenseReference,
    "moe": MoEReference,
    "memory": MemoryReference,
    "memory_plus": MemoryReference,
    "peer": PeerReference,
}
