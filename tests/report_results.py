"""Made-up result files for the report's tests: a sweep of four arms, and one with a script in every string."""

import random
from typing import Any

from pydantic import ValidationError
from test_records import CEILINGS, a_round, a_run

from layers.spec import PRESETS, Step, spec_from
from membench.case import Case
from membench.results.answers import answers_of
from membench.results.metrics import metrics_of
from membench.results.ranking import step_ms
from membench.results.records import Record, ResultFile

PAYLOAD = (
    "</script></style></title><script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"
    "\"'><a href='javascript:pwned=1'>x</a><!--\u2028&lt;b&gt;{{7*7}}%{x}"
)
LAYERS: dict[str, dict[str, Any]] = {
    "dense": {"kind": "dense", "ffn_hidden": 128},
    "memory": {"kind": "memory", "num_keys": 4096, "key_dim": 8, "top_k": 4},
    "memory_big": {"kind": "memory", "num_keys": 65536, "key_dim": 8, "top_k": 4},
    "moe": {"kind": "moe", "num_experts": 8, "expert_hidden": 64, "top_k": 2},
}
ENVIRONMENT = {
    "device": {"type": "cpu", "name": "a processor", "cores": 2, "memory_bytes": 2**34},
    "fingerprint": "0123456789ab",
    "packages": {"torch": "2.13.0", "triton": None},
    "host": {"os": "an operating system"},
}


def a_sweep(seed: int = 0, *, tokens=(8, 64), modes=("forward", "forward_backward"), rounds=2, **run) -> ResultFile:
    """Every arm at every token count in every mode; the last case failed."""
    rng = random.Random(seed)
    cases = [
        _record(rng, arm, mode, count, rounds, point={"workload.tokens": count} if len(tokens) > 1 else {})
        for count in tokens
        for mode in modes
        for arm in LAYERS
    ]
    cases[-1] = cases[-1].model_copy(update={"status": "oom", "reason": "it did not fit", "rounds": [], "metrics": {}})
    return ResultFile(run=a_run(rounds=rounds, **run), environment=ENVIRONMENT, cases=cases)


def a_key_sweep(seed: int = 0) -> ResultFile:
    """A memory over its keys, and a dense layer measured once."""
    rng = random.Random(seed)
    cases = [_record(rng, "dense", "forward", 8, 1, {})]
    for keys in (1024, 4096, 16384):
        cases.append(_record(rng, "memory", "forward", 8, 1, {"arms.memory.num_keys": keys}, num_keys=keys))
    return ResultFile(run=a_run(scenario="keys"), environment=ENVIRONMENT, cases=cases)


def of_whole_models(result: ResultFile) -> ResultFile:
    """The same, as if each layer had been measured in every block of a small model."""
    for record in result.cases:
        model = PRESETS["tiny"].around(record.case.layer, "all", "own")
        record.case = record.case.model_copy(update={"layer": model, "level": "model"})
    return result


def _record(rng, arm, mode, tokens, rounds, point, **sizes) -> Record:
    layer = spec_from({"model_dim": 64, "dtype": "float32", **LAYERS[arm], **sizes})
    case = Case(arm=arm, mode=mode, layer=layer, tokens=tokens)
    cost = layer.cost(Step(tokens, mode=mode))
    counted = {
        "params": cost.params,
        "stored_bytes": cost.stored_bytes,
        "flops": cost.flops,
        "bytes_dram_expected": cost.bytes_dram_expected,
        "row_bytes_dram_expected": cost.row_bytes_dram_expected,
    }
    fastest_s = 1e-3 * rng.uniform(1, 3) * tokens
    done = [
        a_round(
            number,
            samples=[fastest_s * rng.uniform(1, 1.2) for _ in range(12)],
            cost=counted,
            ceilings=CEILINGS,
            disturbance={"limit": 0.05, "kept_samples": 0},
            traffic={"lookups": 16 * tokens, "unique_rows": 12.0 * tokens, "unique_per_lookup": 0.75},
            memory={"weights_bytes": cost.stored_bytes, "gradient_bytes": 4096, "peak_process_bytes": 10**9},
            energy={"joules_per_call": 0.5},
            implementation={"chosen": "eager"},
        )
        for number in range(rounds)
    ]
    record = Record(
        id=case.id,
        case=case,
        status="ok",
        labels=["one layer"],
        achieved={"flops_per_token": layer.cost(Step(1)).flops},
        asked={"params": float(cost.params)},
        planned={"point": point, "params": cost.params, "stored_bytes": cost.stored_bytes},
        rounds=done,
        metrics=metrics_of(case, done, communication_ms=0.5),
        flags=["a thing to distrust"],
    )
    assert step_ms(record)
    return record


def with_answers(result: ResultFile) -> ResultFile:
    """The result as a run leaves it: with its answers."""
    return result.model_copy(update={"answers": list(answers_of(result).values())})


def with_payload(result: ResultFile, payload: str = PAYLOAD) -> tuple[ResultFile, int]:
    """The payload in every string that the schema does not fix, as value and as key; how many there were."""
    tree = result.model_dump(mode="json")
    replaced = 0
    for holder, key in list(_strings(tree)):
        kept = holder[key]
        holder[key] = f"{kept} {payload}"
        try:
            ResultFile.model_validate(tree)
            replaced += 1
        except ValidationError:
            holder[key] = kept
    for case in tree["cases"]:
        case["metrics"][payload] = 1.5
        case["asked"][payload] = case["achieved"][payload] = 2.0
        case["planned"]["point"][payload] = payload
    tree["environment"][payload] = {payload: payload}
    return ResultFile.model_validate(tree), replaced


def _strings(tree: Any):
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        if isinstance(value, str):
            yield tree, key
        elif isinstance(value, (dict, list)):
            yield from _strings(value)
