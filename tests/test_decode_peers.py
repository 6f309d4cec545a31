"""Decoding beside public engines: the same tokens of all, each timed by itself, and what a file keeps."""

import json
import time
from importlib.util import find_spec

import pytest
import torch
from document_numbers import figures_of

from benchmarks import decode_peers
from benchmarks.decode_engines import ctranslate2_engine, our_engine, transformers_engine
from layers.models.model import Model
from layers.spec import PRESETS, DenseSpec

PROMPT = [3, 200, 17, 5]


@pytest.fixture(scope="module")
def model():
    shape = PRESETS["tiny"]
    spec = shape.around(DenseSpec(model_dim=64, ffn_hidden=192, dtype="float32"), "all", "own")
    return Model(spec, generator=torch.Generator().manual_seed(0)).eval()


def whole_sequences(model, count):
    """Greedy tokens, each from all tokens before it and no cache."""
    tokens = list(PROMPT)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).argmax()))
    return tokens[len(PROMPT) :]


@pytest.mark.parametrize("name", ["ours", "transformers", "ctranslate2"])
def test_engines_generate_what_the_model_says(name, model, tmp_path):
    if name != "ours" and find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    engine = {
        "ours": lambda: our_engine(model, "float32"),
        "transformers": lambda: transformers_engine(model, "eager"),
        "ctranslate2": lambda: ctranslate2_engine(model, tmp_path, "float32"),
    }[name]()
    called = []
    assert engine.generate(PROMPT, 7, lambda: called.append(1)) == whole_sequences(model, 7)
    assert len(called) == 7
    assert engine.exact and engine.weight_bytes == 4


def test_a_watch_leaves_out_what_is_done_between_tokens():
    watch = decode_peers.Stopwatch(lambda: time.sleep(0.2))
    for _ in range(3):
        watch()
    assert len(watch.seconds) == 2 and max(watch.seconds) < 0.2


def test_rounds_are_in_turn_warm_and_cold(model, monkeypatch):
    monkeypatch.setattr(decode_peers, "SETTLED_S", 0)
    evicted, rounds = [], []
    both = [our_engine(model, dtype) for dtype in ("float32", "bfloat16")]
    found = decode_peers.timed(both, PROMPT, 3, 2, lambda: evicted.append(1), lambda: rounds.append(1))
    assert len(rounds) == 2
    for each in found:
        assert {state: [len(of) for of in rounds] for state, rounds in each.seconds.items()} == {
            "warm": [3, 3],
            "cold": [3, 3],
        }
        assert len(each.tokens) == 4
    assert len(evicted) == 2 * 3 * 4  # engines, rounds with the one that is not counted, tokens


def test_a_file_holds_what_documents_quote(model, tmp_path):
    found = decode_peers.Timed(our_engine(model, "bfloat16"), {"warm": [[2.0, 4.0]], "cold": [[1.0, 5.0]]}, [])
    row = decode_peers.row(found, model.spec, 1e6, tokens=2)
    needed = decode_peers.decode_bytes(model.spec, 17) / 2
    assert row["cold_of_read_ceiling"] == pytest.approx(needed / 3 / 1e6)
    content = {"benchmark": "decode_peers", "environment": {}, "read_bytes_per_s": 1e6, "engines": [row]}
    content |= {"prompt_tokens": 16, "tokens": 2, "rounds": 1, "threads": 2}
    path = tmp_path / "found.json"
    path.write_text(json.dumps(content))
    assert 3000 in figures_of(path).of["membench bfloat16"]
