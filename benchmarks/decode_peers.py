"""Decoding of a small dense decoder on this CPU, batch 1, beside public engines with the same weights.

    python -m benchmarks.decode_peers [--preset 91m] [--tokens 64] [--rounds 5] [--json FILE]

Greedy decoding after a prompt of 16 tokens, random weights. Engines take turns, round by round: ours in fp32 and
bf16; transformers' Llama, eager and compiled; ctranslate2 in fp32 and int8, where they are installed. Each generates
the same number of tokens; all in fp32 must generate the same ones. A token's floor is the bytes of all weights but the
embedding, and of keys and values, over the read rate that is measured in the same process.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.decode_engines import Engine, ctranslate2_engine, our_engine, transformers_engine
from membench.layers.models.model import Model
from membench.layers.spec import PRESETS, DenseSpec, ModelSpec, Step
from membench.machine.provenance import probe_environment, utc_now
from membench.measuring.ceilings import MeasuredCeilings
from membench.measuring.time import Clock
from membench.processes.environment import measuring_environment

PROMPT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Timed:
    """One engine's rounds: seconds a token, and the tokens of the last."""

    engine: Engine
    seconds: list[float]
    tokens: list[int]


def engines(model: Model, folder: Path) -> Iterator[Engine]:
    """Every engine that can be had here, with the model's weights."""
    for dtype in ("float32", "bfloat16"):
        yield our_engine(model, dtype)
    if find_spec("transformers") is not None:
        for compiled in (False, True):
            yield transformers_engine(model, compiled=compiled)
    if find_spec("ctranslate2") is not None:
        for compute in ("float32", "int8"):
            yield ctranslate2_engine(model, folder, compute)


def timed(all_engines: list[Engine], prompt: list[int], tokens: int, rounds: int) -> list[Timed]:
    """Each engine's seconds a token in each round, in turn; what was generated first is not counted."""
    found = [Timed(engine, [], []) for engine in all_engines]
    for number in range(-1, rounds):
        for each in found:
            begin = time.perf_counter()
            generated = each.engine.generate(prompt, 1)
            first_s = time.perf_counter() - begin
            begin = time.perf_counter()
            generated = each.engine.generate(prompt, tokens + 1)
            seconds = (time.perf_counter() - begin - first_s) / tokens
            if number >= 0:
                each.seconds.append(seconds)
                each.tokens[:] = generated
    return found


def decode_bytes(spec: ModelSpec, context: int) -> float:
    """What a token must read: weights and cache."""
    return spec.cost(Step(1, mode="decode", context=context)).bytes_min


def main() -> None:
    """Time, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="91m", choices=sorted(PRESETS))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = measuring_environment()
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(
            sys.executable, [sys.executable, "-m", "benchmarks.decode_peers", *sys.argv[1:]], {**os.environ, **wanted}
        )
    shape = PRESETS[options.preset]
    dense = DenseSpec(model_dim=shape.model_dim, ffn_hidden=shape.ffn_hidden, dtype="float32")
    spec = shape.around(dense, "all", "own")
    model = Model(spec, generator=torch.Generator().manual_seed(0)).eval()
    prompt = torch.randint(spec.vocab_size, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    environment, started = probe_environment("cpu"), utc_now()
    ceilings = MeasuredCeilings.of_machine(Clock("cpu"), environment["device"]["cache_bytes"] or 0, "float32", {})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = timed(list(engines(model, folder)), prompt, options.tokens, options.rounds)
    read = ceilings.as_json()["read_bytes_per_s"]
    rows = [row(each, spec, read, options.tokens) for each in found]
    exact = [each.tokens for each in found if each.engine.exact]
    if any(tokens != exact[0] for tokens in exact):
        sys.exit("engines in fp32 generated different tokens: nothing is compared")
    show(rows, read)
    if options.json is not None:
        content = {
            "benchmark": "decode_peers",
            "started": started,
            "environment": environment,
            "preset": options.preset,
            "prompt_tokens": PROMPT_TOKENS,
            "tokens": options.tokens,
            "rounds": options.rounds,
            "read_bytes_per_s": read,
            "engines": rows,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def row(each: Timed, spec: ModelSpec, read_bytes_per_s: float, tokens: int) -> dict[str, Any]:
    """What is kept of one engine."""
    needed = decode_bytes(spec, PROMPT_TOKENS + tokens // 2) * each.engine.weight_bytes / spec.item_bytes
    seconds = statistics.median(each.seconds)
    return {
        "engine": each.engine.name,
        "token_ms": 1e3 * seconds,
        "round_token_ms": [1e3 * s for s in each.seconds],
        "bytes": needed,
        "of_read_ceiling": needed / seconds / read_bytes_per_s,
    }


def show(rows: list[dict[str, Any]], read_bytes_per_s: float) -> None:
    """A table."""
    print(f"read ceiling {read_bytes_per_s / 1e9:.1f} GB/s")
    for each in rows:
        share = f"{each['of_read_ceiling']:.0%} of the read ceiling"
        print(f"{each['engine']:32} {each['token_ms']:7.2f} ms a token, {share}")


if __name__ == "__main__":
    main()
