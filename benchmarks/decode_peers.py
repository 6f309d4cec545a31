"""Decoding of a small dense decoder on this CPU, batch 1, beside public engines with the same weights.

    python -m benchmarks.decode_peers [--preset 91m] [--tokens 64] [--rounds 5] [--json FILE]

Greedy decoding after a prompt of 16 tokens, random weights. Engines take turns, round by round: ours in fp32 and bf16;
transformers' Llama, eager, compiled, and in torchao's int8; ctranslate2 in fp32 and int8, where they are installed.
All in fp32 must generate the same tokens. Each token is timed by itself, in two ways: ``warm``, one after the other,
when what fits stays in the last-level cache; and ``cold``, when twice that cache is read between two tokens, untimed,
so that all engines' weights come from memory, however narrow. A token's floor is the bytes of all weights but the
embedding, and of keys and values, over the read rate; it is for the cold ones. That rate is measured anew in each
round, and the median counts: what other guests of a machine leave of its memory changes within minutes.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.decode_engines import Engine, ctranslate2_engine, our_engine, transformers_engine
from benchmarks.writing import add_json_option, heading, write_found
from membench.layers.models.model import Model
from membench.layers.spec import PRESETS, DenseSpec, ModelSpec, Step
from membench.machine.device import usable_cores
from membench.machine.provenance import probe_environment, utc_now
from membench.measuring.ceilings import stream_ceilings
from membench.measuring.time import Clock
from membench.processes.environment import measuring_environment

PROMPT_TOKENS = 16
SETTLED_S = 0.3  # threads of another engine's OpenMP wait spinning for 0.2 s after it has ended
PARTS = {"transformers": ("eager", "compiled"), "torchao": ("int8",), "ctranslate2": ("float32", "int8")}


@dataclass(frozen=True, slots=True)
class Timed:
    """One engine's seconds for each token, by round, warm and cold; and the tokens of the last round."""

    engine: Engine
    seconds: dict[str, list[list[float]]]
    tokens: list[int]


class Stopwatch:
    """Seconds from one token to the next, without what is done between them."""

    def __init__(self, between: Callable[[], object]) -> None:
        self.between, self.seconds, self._left = between, [], None

    def __call__(self) -> None:
        """A token is there."""
        now = time.perf_counter()
        if self._left is not None:
            self.seconds.append(now - self._left)
        self.between()
        self._left = time.perf_counter()


def engines(model: Model, folder: Path) -> Iterator[Engine]:
    """Every engine that can be had here, with the model's weights."""
    for dtype in ("float32", "bfloat16"):
        yield our_engine(model, dtype)
    for package, ways in PARTS.items():
        if find_spec(package) is None or find_spec("transformers") is None:
            continue
        for way in ways:
            if package == "ctranslate2":
                yield ctranslate2_engine(model, folder, way)
            else:
                yield transformers_engine(model, way)


def timed(
    all_engines: list[Engine],
    prompt: list[int],
    tokens: int,
    rounds: int,
    evict: Callable[[], object],
    begin_round: Callable[[], object],
) -> list[Timed]:
    """Each engine's tokens in each round, in turn; what was generated first is not counted."""
    found = [Timed(engine, {"warm": [], "cold": []}, []) for engine in all_engines]
    for number in range(-1, rounds):
        if number >= 0:
            begin_round()
        for each in found:
            for state, between in (("warm", _nothing), ("cold", evict)):
                time.sleep(SETTLED_S)
                watch = Stopwatch(between)
                each.tokens[:] = each.engine.generate(prompt, tokens + 1, watch)
                if number >= 0:
                    each.seconds[state].append(watch.seconds)
    return found


def _nothing() -> None:
    """Between warm tokens."""


def decode_bytes(spec: ModelSpec, context: int) -> float:
    """What a token must read: weights and cache."""
    return spec.cost(Step(1, mode="decode", context=context)).bytes_min


def main() -> None:
    """Time, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="91m", choices=sorted(PRESETS))
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    add_json_option(parser)
    options = parser.parse_args()
    if options.tokens < 1 or options.rounds < 1:
        parser.error("--tokens and --rounds: at least 1")
    if "GOMP_SPINCOUNT" not in os.environ:
        words = [sys.executable, "-m", "benchmarks.decode_peers", *sys.argv[1:]]
        os.execve(sys.executable, words, measuring_environment(len(usable_cores())))
    shape = PRESETS[options.preset]
    dense = DenseSpec(model_dim=shape.model_dim, ffn_hidden=shape.ffn_hidden, dtype="float32")
    spec = shape.around(dense, "all", "own")
    model = Model(spec, generator=torch.Generator().manual_seed(0)).eval()
    prompt = torch.randint(spec.vocab_size, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    environment, started = probe_environment("cpu"), utc_now()
    cache_bytes = environment["device"]["cache_bytes"] or 0
    reads: list[float] = []
    scratch = torch.zeros(max(cache_bytes // 2, 1))  # twice the cache, in fp32
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        every = list(engines(model, folder))
        found = timed(
            every,
            prompt,
            options.tokens,
            options.rounds,
            scratch.sum,
            lambda: reads.append(stream_ceilings(Clock("cpu"), cache_bytes)[1]),
        )
    read = statistics.median(reads)
    rows = [row(each, spec, read, options.tokens) for each in found]
    exact = [each.tokens for each in found if each.engine.exact]
    if any(tokens != exact[0] for tokens in exact):
        sys.exit("engines in fp32 generated different tokens: nothing is compared")
    show(rows, read)
    if options.json is not None:
        content = {
            **heading("decode_peers", started, environment),
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in PARTS if find_spec(name) is not None},
            "preset": options.preset,
            "prompt_tokens": PROMPT_TOKENS,
            "tokens": options.tokens,
            "rounds": options.rounds,
            "read_bytes_per_s": read,
            "round_read_bytes_per_s": reads,
            "engines": rows,
        }
        write_found(content, options.json)


def row(each: Timed, spec: ModelSpec, read_bytes_per_s: float, tokens: int) -> dict[str, Any]:
    """What is kept of one engine."""
    needed = decode_bytes(spec, PROMPT_TOKENS + tokens // 2) * each.engine.weight_bytes / spec.item_bytes
    in_rounds = {state: [statistics.median(of) for of in rounds] for state, rounds in each.seconds.items()}
    seconds = {state: statistics.median(rounds) for state, rounds in in_rounds.items()}
    return {
        "engine": each.engine.name,
        **{f"{state}_token_ms": 1e3 * s for state, s in seconds.items()},
        **{f"round_{state}_token_ms": [1e3 * s for s in rounds] for state, rounds in in_rounds.items()},
        "bytes": needed,
        "cold_of_read_ceiling": needed / seconds["cold"] / read_bytes_per_s,
    }


def show(rows: list[dict[str, Any]], read_bytes_per_s: float) -> None:
    """A table as a document has it."""
    print(f"read ceiling {read_bytes_per_s / 1e9:.1f} GB/s\n")
    print("| engine | warm, ms a token | cold, ms a token | of the read ceiling, % |\n|---|--:|--:|--:|")
    for each in rows:
        times = " | ".join(f"{each[f'{state}_token_ms']:.1f}" for state in ("warm", "cold"))
        print(f"| {each['engine']} | {times} | {100 * each['cold_of_read_ceiling']:.0f} |")


if __name__ == "__main__":
    main()
