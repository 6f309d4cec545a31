"""How much of a layer the check before timing compares, and what memory that takes. Pure arithmetic."""

from membench.layers.spec import Spec

_TOKENS_BYTES = 4 * 2**30  # what float64 copies of what is the sampled tokens' own (experts) may take
_FLOAT64_BYTES = 8
CHECK_WORKSPACE_BYTES = 0.5e9


def sampled_inputs(spec: Spec, new_tokens: int = 1) -> int:
    """How many tokens, or sequences of so many, are compared: as many as the kind says, or fewer large experts."""
    one, none = (spec.checked_params(sampled, new_tokens) for sampled in (1, 0))
    input_bytes = _FLOAT64_BYTES * (one - none)
    return max(1, min(spec.SAMPLED, _TOKENS_BYTES // input_bytes)) if input_bytes else spec.SAMPLED


def check_bytes(spec: Spec, new_tokens: int = 1, sequences: int = 1, ranks: int = 1) -> float:
    """What the check holds beside the layer: float64 copies of what is sampled, one gradient at a time.

    Of what attends, activations too, which grow with the square of a sequence's tokens.

    The largest gradient is at most two thirds of a SwiGLU, whose gate and up are one matrix.
    ``ranks`` that are there compare the sampled tokens of all.
    """
    touched = spec.checked_params(ranks * sampled_inputs(spec, new_tokens), new_tokens)
    held = touched * 5 / 3 + spec.checked_activations(sequences, new_tokens)
    return CHECK_WORKSPACE_BYTES + _FLOAT64_BYTES * held
