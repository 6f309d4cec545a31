"""How much of a layer the check before timing compares, and what memory that takes. Pure arithmetic."""

from membench.layers.spec import DenseSpec, GroupedExpertsSpec, KeyScoresSpec, MemorySpec, MoESpec, PeerSpec, Spec

_SAMPLED_TOKENS = 4
_EXPERT_BYTES = 4 * 2**30  # what float64 copies of the sampled tokens' experts may take
_FLOAT64_BYTES = 8
CHECK_WORKSPACE_BYTES = 0.5e9


def sampled_tokens(spec: Spec) -> int:
    """How many tokens are compared: four, or fewer where they would touch very large experts."""
    if not isinstance(spec, (MoESpec, GroupedExpertsSpec)):
        return _SAMPLED_TOKENS
    token_bytes = _FLOAT64_BYTES * spec.top_k * spec.expert_params
    return max(1, min(_SAMPLED_TOKENS, _EXPERT_BYTES // token_bytes))


def check_bytes(spec: Spec) -> float:
    """What the check holds beside the layer: float64 copies of what sampled tokens touch, one gradient at a time.

    The largest gradient is at most two thirds of a SwiGLU, whose gate and up are one matrix.
    """
    match spec:
        case DenseSpec() | KeyScoresSpec():
            touched = spec.cost(1).params
        case MoESpec() | GroupedExpertsSpec():
            shared = spec.cost(1).params - spec.num_experts * spec.expert_params
            touched = shared + min(spec.num_experts, sampled_tokens(spec) * spec.top_k) * spec.expert_params
        case MemorySpec() | PeerSpec():
            touched = spec.layer_params
        case _:
            touched = 0
    return CHECK_WORKSPACE_BYTES + _FLOAT64_BYTES * touched * 5 / 3
