"""Claims of the literature that scenarios of level training test: who says what, and which arms would show it."""

from dataclasses import dataclass

PAPER = "arXiv 2412.09764"


@dataclass(frozen=True, slots=True)
class Claim:
    """Of each pair the first arm has the lower answer NLL; where ``alike``, neither of the two has.

    Args:
        says: the claim.
        source: who says it, and with which figures.
        task: of the scenario's tasks the one that is meant, where it has several.
        tokens: of the scenario's budgets the one that is meant, where it has several.
        beside: a metric that is shown of the arms too.
    """

    says: str
    source: str
    scenario: str
    pairs: tuple[tuple[str, str], ...]
    task: str | None = None
    tokens: float | None = None
    alike: bool = False
    beside: str | None = None


CLAIMS = (
    Claim(
        "At equal FLOPs a memory stores more facts than a dense FFN",
        f"{PAPER}, figure 1: NQ exact match 7.7 dense, 9.8 with 1M values, 20.8 with 64M (1.3B base)",
        "capacity",
        (("memory", "dense"), ("memory_plus", "dense"), ("peer", "dense")),
        beside="bits_per_fact",
    ),
    Claim(
        "A memory recalls more than a dense model of twice the compute",
        f"{PAPER}, section 5.1: Memory about as dense of twice the parameters, Memory+ between 2x and 4x the compute",
        "replace_one_ffn",
        (("memory", "dense_2x"), ("memory_plus", "dense_2x")),
        beside="em",
    ),
    Claim(
        "Memory+ stores more than Memory",
        f"{PAPER}, section 5.1: Memory+ before Memory at every size",
        "capacity",
        (("memory_plus", "memory"),),
        beside="bits_per_fact",
    ),
    Claim(
        "PEER is behind Memory+",
        f"{PAPER}, section 5.1: PEER about as good as Memory, behind Memory+",
        "capacity",
        (("memory_plus", "peer"),),
        beside="bits_per_fact",
    ),
    Claim(
        "More keys, lower NLL",
        f"{PAPER}, figure 1: NQ NLL 11.8, 10.5, 9.4, 8.6, 8.0 from no values to 64M",
        "train_key_scaling",
        (("keys_4k", "keys_1k"), ("keys_16k", "keys_4k"), ("keys_64k", "keys_16k")),
        beside="bits_per_fact",
    ),
    Claim(
        "Three memory layers on one pool are better than one",
        f"{PAPER}, table 3: NQ NLL 12.13 with one, 11.32 with three (4, 12, 20)",
        "memory_layer_count",
        (("three_spread", "one"), ("three_close", "one")),
        beside="bits_per_fact",
    ),
    Claim(
        "Three are better than more",
        f"{PAPER}, table 3: NQ NLL 11.32 with three, 11.79 with six",
        "memory_layer_count",
        (("three_spread", "five"),),
        beside="bits_per_fact",
    ),
    Claim(
        "Spread memory layers are better than close ones",
        f"{PAPER}, table 3: NQ NLL 11.32 at 4, 12, 20 and 11.60 at 12, 16, 20",
        "memory_layer_count",
        (("three_spread", "three_close"),),
        beside="bits_per_fact",
    ),
    Claim(
        "Mixtures of experts are far behind memories of as many parameters",
        f"{PAPER}, section 5.1: MoE underperforms the memory variants by large margins",
        "capacity",
        (("memory_plus", "moe_top1"), ("memory_plus", "moe_top8")),
        beside="bits_per_fact",
    ),
    Claim(
        "The same, where each fact is shown 38 times instead of nine",
        f"{PAPER}, section 5.1, as above",
        "capacity_exposure",
        (("memory_plus", "moe_top1"),),
        tokens=2.4e6,
        beside="bits_per_fact",
    ),
    Claim(
        "At equal FLOPs a memory stores more than a dense FFN, where each fact is shown 38 times",
        f"{PAPER}, figure 1, as above",
        "capacity_exposure",
        (("memory_plus", "dense"),),
        tokens=2.4e6,
        beside="bits_per_fact",
    ),
    Claim(
        "Memory+ is behind a fine-grained top-8 mixture",
        "arXiv 2508.18756 (UltraMemV2): Memory+ behind a good top-8 mixture",
        "replace_one_ffn",
        (("moe_top8", "memory_plus"),),
        beside="em",
    ),
    Claim(
        "A parameter of a dense FFN stores more than one of a sparse layer",
        "arXiv 2404.05405: a mixture of 32 experts stores 1.3 times less a parameter than dense",
        "capacity",
        (
            ("dense_same_params", "memory_plus"),
            ("dense_same_params", "moe_top1"),
            ("dense_same_params", "moe_top8"),
        ),
        beside="bits_per_param",
    ),
    Claim(
        "A gate gains",
        f"{PAPER}, table 3: NQ NLL 12.13 without, 12.24 gated, 12.05 with SiLU in the gate",
        "memory_ablation",
        (("memory_plus", "no_gate"),),
        beside="bits_per_fact",
    ),
    Claim(
        "Rows of the model's width are better than more and narrower ones",
        f"{PAPER}, table 4: NQ NLL 12.13 with 1M rows of 1024, 12.63 with 4M of 256",
        "memory_ablation",
        (("memory_plus", "narrow_values"),),
        beside="bits_per_fact",
    ),
    Claim(
        "Keys twice as wide gain nothing",
        f"{PAPER}, table 4: NQ NLL 12.13 with keys of 256, 12.32 with 512, 12.37 with 1024",
        "memory_ablation",
        (("wide_keys", "memory_plus"),),
        alike=True,
        beside="bits_per_fact",
    ),
    Claim(
        "A table has to be trained",
        "none: a control, whose rows stay as they were drawn",
        "memory_ablation",
        (("memory_plus", "frozen_table"),),
        beside="bits_per_fact",
    ),
    Claim(
        "A memory gains nothing in sums",
        "none: sums have a rule, and nothing has to be stored",
        "task_domains",
        (("memory_plus", "dense"),),
        task="arithmetic",
        alike=True,
        beside="em",
    ),
    Claim(
        "A memory gains nothing in recall from the prompt",
        "none: attention alone solves it (arXiv 2312.04927)",
        "task_domains",
        (("memory_plus", "dense"),),
        task="in_context_recall",
        alike=True,
        beside="em",
    ),
    Claim(
        "Two hops: one pool read at two depths is better than two pools of half the rows",
        "none directly; the second fact is needed deeper than the first (arXiv 2502.03490)",
        "two_hop_pool",
        (("one_pool", "two_pools"), ("one_pool", "one_layer")),
        beside="em",
    ),
)
