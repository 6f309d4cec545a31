"""Fits what a collective takes: so long for each message and for each byte that a rank sends, by least squares."""

from collections.abc import Sequence

from membench.layers.spec import Collective, CollectiveKind
from membench.planning.network import AlphaBeta, steps_of

_LEAST_S, _LEAST_S_PER_BYTE = 1e-9, 1e-14


def fitted_lines(kind: CollectiveKind, ranks: int, points: Sequence[tuple[int, float]]) -> tuple[AlphaBeta, AlphaBeta]:
    """Two lines, of which the longer time counts: messages that fit into caches, and larger ones.

    Relative errors are squared, so that a small message counts as much as a large one.

    Args:
        kind: the collective.
        ranks: P.
        points: (payload bytes, measured seconds) of at least four sizes, the smallest first.
    """
    import numpy as np
    from scipy.optimize import least_squares

    sent = np.array([Collective(kind, payload, ranks).sent_bytes for payload, _ in points])
    seconds = np.array([measured for _, measured in points])

    def predicted(parameters: np.ndarray) -> np.ndarray:
        start, per_byte, more, kink = np.exp(parameters)
        return start + per_byte * sent + more * np.maximum(0.0, sent - kink)

    def error(parameters: np.ndarray) -> np.ndarray:
        return predicted(parameters) / seconds - 1

    rate = max(_LEAST_S_PER_BYTE, (seconds[-1] - seconds[0]) / sent[-1])
    kinks = sent[1:-1]  # where the least error is flat in the kink, a start beside it stays there
    starts = [np.log([max(_LEAST_S, seconds[0]), rate / 2, rate / 2, kink]) for kink in kinks]
    best = min((least_squares(error, start) for start in starts), key=lambda found: found.cost)
    start_s, per_byte, more, kink = np.exp(best.x)
    messages = steps_of(kind, ranks)
    return (
        AlphaBeta(float(start_s) / messages, 1 / max(_LEAST_S_PER_BYTE, float(per_byte))),
        AlphaBeta(float(start_s - more * kink) / messages, 1 / max(_LEAST_S_PER_BYTE, float(per_byte + more))),
    )
