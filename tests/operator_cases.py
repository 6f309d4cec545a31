"""Small operators, awkward ones and their inputs, for tests."""

import torch

from layers.spec import OPERATORS, spec_from
from membench.case import Case
from membench.measuring.inputs import make_inputs

SMALL = {
    "weighted_bag": {"model_dim": 96, "num_keys": 400, "heads": 2, "top_k": 8},
    "expert_rows": {"model_dim": 96, "num_keys": 400, "heads": 2, "top_k": 8},
    "product_key_top_k": {"num_keys": 400, "heads": 2, "top_k": 8},
    "key_scores": {"num_keys": 400, "heads": 2, "key_dim": 32},
    "grouped_experts": {"model_dim": 96, "num_experts": 10, "expert_hidden": 56, "top_k": 3},
}
EVERY_PATH = [
    (kind, path)
    for kind in SMALL
    for path in ("auto", "torch", "native", "plain")
    if path in ("auto", "plain", *OPERATORS[kind].PATHS)
]


def spec_of(kind, path="auto", dtype="float32", **changes):
    dtype = "float32" if kind == "product_key_top_k" else dtype
    return spec_from({"kind": kind, "path": path, "dtype": dtype, **SMALL[kind], **changes})


def case_of(spec, tokens=16, routing="uniform", mode="forward", **changes):
    given = {"kind": routing} if spec.ROUTED else {}
    return Case(arm="x", level="op", mode=mode, layer=spec, tokens=tokens, routing=given, **changes)


def one_input(operator, tokens, seed, routing="zipf"):
    with torch.no_grad():
        return make_inputs(operator, case_of(operator.spec, tokens, routing, seed=seed), 1, "cpu")[0]


def random_sizes(kind, rng):
    """Awkward ones: single columns, odd widths, as many rows as a head reads."""
    rows = {
        "model_dim": rng.choice([1, 7, 96, 100]),
        "num_keys": rng.choice([9, 64, 400]),
        "heads": rng.randint(1, 3),
        "top_k": rng.randint(1, 9),
    }
    keys = {"num_keys": rng.choice([1, 3, 9, 20]) ** 2, "heads": rng.randint(1, 3)}
    experts = rng.randint(1, 6)
    return {
        "weighted_bag": rows,
        "expert_rows": rows,
        "product_key_top_k": keys | {"top_k": rng.randint(1, int(keys["num_keys"] ** 0.5))},
        "key_scores": keys | {"key_dim": 2 * rng.randint(1, 20)},
        "grouped_experts": {
            "model_dim": rows["model_dim"],
            "num_experts": experts,
            "expert_hidden": rng.choice([1, 7, 40]),
            "top_k": rng.randint(1, experts),
        },
    }[kind]
