"""How much of a layer the check before timing compares, and what memory that takes. Pure arithmetic."""

from membench.layers.spec import Spec

_SAMPLED_TOKENS = 4
_TOKENS_BYTES = 4 * 2**30  # what float64 copies of what is the sampled tokens' own (experts) may take
_FLOAT64_BYTES = 8
CHECK_WORKSPACE_BYTES = 0.5e9


def sampled_tokens(spec: Spec) -> int:
    """How many tokens are compared: four, or fewer where they would touch very large experts."""
    token_bytes = _FLOAT64_BYTES * (spec.checked_params(1) - spec.checked_params(0))
    return max(1, min(_SAMPLED_TOKENS, _TOKENS_BYTES // token_bytes)) if token_bytes else _SAMPLED_TOKENS


def check_bytes(spec: Spec) -> float:
    """What the check holds beside the layer: float64 copies of what sampled tokens touch, one gradient at a time.

    The largest gradient is at most two thirds of a SwiGLU, whose gate and up are one matrix.
    """
    touched = spec.checked_params(sampled_tokens(spec))
    return CHECK_WORKSPACE_BYTES + _FLOAT64_BYTES * touched * 5 / 3
