"""A bit-equal answer is compared with the reference once in a run, any other again."""

import pytest
import torch

from layers import build, spec_from
from membench.case import Case
from membench.layers.kernels.paths import has_native
from membench.measuring import preparation as preparation_module
from membench.measuring.checked_answer import CheckedAnswer
from membench.measuring.measurement import CaseMeasurement
from membench.measuring.preparation import Preparation, WrongAnswer
from membench.measuring.time import Clock, Sampling

MEMORY = {"kind": "memory", "num_keys": 1024, "heads": 2, "top_k": 4, "key_dim": 8}
MODES = ("forward", "forward_backward", "train_step")


def a_case(mode="forward", **layer):
    spec = spec_from({"model_dim": 32, "dtype": "float32", **(layer or MEMORY)})
    optimizer = "row_adagrad" if mode == "train_step" else None
    return Case(arm="memory", mode=mode, optimizer=optimizer, layer=spec, tokens=16)


def measured(case, known=None, layer=None, **how):
    measurement = CaseMeasurement(layer or build(case.layer, seed=case.seed), Clock("cpu"), 2**14, lambda doing: None)
    return measurement.run(case, Sampling(2, 2, 0.01, 0.0), ["eager"], known, **how)


def known_of(found, number=0, **changes):
    known = {"digest": found["answer_digest"], "reference": found["reference"], **changes}
    return CheckedAnswer(round=number, implementation=known.pop("implementation", "eager"), **known)


@pytest.fixture
def comparisons(monkeypatch):
    """Counts the comparisons with the reference."""
    made, verify = [], preparation_module.verify

    def counted(*arguments, **named):
        made.append(arguments)
        return verify(*arguments, **named)

    monkeypatch.setattr(preparation_module, "verify", counted)
    return made


@pytest.mark.parametrize("mode", MODES)
def test_a_bit_equal_answer_is_not_compared_again(mode, comparisons):
    case = a_case(mode)
    first = measured(case)
    assert len(comparisons) == 1
    second = measured(case, known_of(first, 3))
    assert len(comparisons) == 1
    assert second["answer_digest"] == first["answer_digest"]
    assert second["reference"] == {**first["reference"], "bit_equal_to_round": 3}


@pytest.mark.parametrize("tokens", [1, 200])
@pytest.mark.parametrize("mode", MODES)
def test_a_round_without_comparison_tells_the_same_paths(mode, tokens):
    """One C++ call of few tokens, or operators of many: what the comparison itself runs is not told."""
    case = a_case(mode).model_copy(update={"tokens": tokens})
    first = measured(case)
    second = measured(case, known_of(first), memory=False)
    assert "bit_equal_to_round" in second["reference"]
    assert second["ran"]["paths"] == first["ran"]["paths"]
    assert bool(first["ran"]["paths"]) == (mode != "forward" or tokens > 1 or not has_native())


@pytest.mark.parametrize("mode", MODES)
def test_another_answer_is_compared_again(mode, comparisons):
    case = a_case(mode)
    first = measured(case)
    changed = build(case.layer)
    with torch.no_grad():
        changed.table.weight.mul_(1 + 1e-6)
    second = measured(case, known_of(first), changed)
    assert len(comparisons) == 2
    assert second["answer_digest"] != first["answer_digest"]
    assert "bit_equal_to_round" not in second["reference"]


def test_a_wrong_answer_is_found_in_a_later_round(comparisons):
    case = a_case()
    first = measured(case)
    wrong = build(case.layer)
    wrong.forward = lambda x, routing=None: 1.5 * type(wrong).forward(wrong, x, routing)
    with pytest.raises(WrongAnswer):
        measured(case, known_of(first), wrong)


def test_a_gradient_alone_is_seen(monkeypatch, comparisons):
    case = a_case("forward_backward")
    first = measured(case)
    layer = build(case.layer)
    layer.query.register_hook(lambda gradient: gradient * (1 + 1e-6))
    assert measured(case, known_of(first), layer)["answer_digest"] != first["answer_digest"]


def test_another_implementation_is_compared(comparisons):
    case = a_case()
    first = measured(case)
    measured(case, known_of(first, implementation="compiled"))
    assert len(comparisons) == 2


def test_an_updates_rows_are_compared_in_every_round(monkeypatch):
    case = a_case("train_step")
    first = measured(case)
    name = "table 0 after row_adagrad"
    known = known_of(first, reference={**first["reference"], "errors": {**first["reference"]["errors"], name: 7.0}})
    assert measured(case, known)["reference"]["errors"][name] == first["reference"]["errors"][name]
    monkeypatch.setattr(preparation_module, "update_errors", lambda *_: {name: 1.0})
    with pytest.raises(WrongAnswer):
        measured(case, known)


def test_a_layer_from_outside_is_compared_in_every_round(outside_layers, comparisons):
    case = a_case(kind="external", factory="layers.public.embedding_bag:build", options={
        "num_keys": 1024, "heads": 2, "top_k": 4, "key_dim": 8,
    })  # fmt: skip
    first = measured(case)
    before = len(comparisons)
    assert "bit_equal_to_round" not in measured(case, known_of(first))["reference"]
    assert len(comparisons) == 2 * before > 0


def test_memory_is_measured_where_it_is_asked_for():
    case = a_case("forward_backward")
    assert measured(case)["memory"]["weights_bytes"] > 0
    assert measured(case, memory=False)["memory"] == {}


def test_other_modes_of_a_layer_share_a_check(comparisons):
    layer = build(a_case().layer)
    preparation = Preparation(layer, "cpu", 2**14)
    for mode in ("forward", "decode", "prefill"):
        preparation.check(a_case(mode), "eager", layer)
    assert len(comparisons) == 1


def test_errors_of_an_update_stay_with_their_optimizer():
    """What an earlier round found of one case is no finding of the next case of the same process."""
    spec = a_case("forward_backward").layer
    cases = [
        Case(arm="memory", mode="train_step", optimizer=optimizer, layer=spec, tokens=16)
        for optimizer in ("row_adagrad", "lazy_adam")
    ]
    known = [known_of(measured(case)) for case in cases]
    measurement = CaseMeasurement(build(spec), Clock("cpu"), 2**14, lambda doing: None)
    for case, before in zip(cases, known, strict=True):
        found = measurement.run(case, Sampling(2, 2, 0.01, 0.0), ["eager"], before)["reference"]
        assert found["bit_equal_to_round"] == 0
        assert found["of_updates"] and all(name.endswith(case.optimizer) for name in found["of_updates"])
        assert found["errors"].keys() == before.reference["errors"].keys()
