"""The page of a scenario's keys has every key that the models read, as they read it."""

import re

import pytest
import yaml
from pydantic import BaseModel
from test_docs import ROOT

from benchmarks.documents.marked import parts_of
from benchmarks.documents.scenario_keys import ARMS, SECTIONS, arms_part, default, sections_part, takes, tasks_part
from layers.spec import KINDS, OPERATORS, PRESETS, ModelShape
from membench.errors import UsageError
from membench.learning.tasks import TASKS
from membench.scenario.arms import SHARED_KEY, entry_point_layers
from membench.scenario.axes import CASE_KEYS, SWEPT_SECTIONS
from membench.scenario.scenario import Scenario, parse_scenario
from membench.scenario.settings import Fit, Measure, Workload
from membench.scenario.shipped import list_scenarios, shipped_directory
from membench.scenario.wholes import WHOLE_KEYS

PAGE = (ROOT / "docs/scenario_keys.md").read_text()
BY_HAND = re.sub(r"<!-- made by.*?<!-- end of [\w-]+ -->", "", PAGE, flags=re.DOTALL)


def keys_of(text):
    """The first cell of each row."""
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


def of_arm(name):
    """The keys in the table of a kind or an operator."""
    return keys_of(re.split(r"^### ", arms_part().split(f": {name}`", 1)[1], flags=re.MULTILINE)[0])


def models_in(model):
    """The models that a model's fields name."""
    for field in model.model_fields.values():
        for each in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(each, type) and issubclass(each, BaseModel):
                yield each
                yield from models_in(each)


def test_the_page_is_what_the_models_give():
    parts = parts_of(PAGE)
    assert parts["keys-of-sections"].strip() == sections_part()
    assert parts["keys-of-arms"].strip() == arms_part()
    assert parts["keys-of-tasks"].strip() == tasks_part()


def test_every_model_that_reads_a_scenario_is_a_section():
    assert {Scenario, *models_in(Scenario), ModelShape} <= {*SECTIONS.values()}
    assert {*KINDS, *OPERATORS} < ARMS.keys()


def test_every_key_says_what_it_means():
    for model in {*SECTIONS.values(), *ARMS.values(), *TASKS.values()}:
        silent = [name for name, each in model.model_fields.items() if not each.description and name != "kind"]
        assert not silent, (model.__name__, silent)


def test_every_key_has_one_row():
    keys = keys_of(sections_part())
    assert len(keys) == len(set(keys)) > 50
    for section, model in SECTIONS.items():
        wanted = {f"{section}.{name}".lstrip(".") for name in model.model_fields}
        assert wanted - {*keys} <= {"workload.routing.trace_sha256"}
    assert "model.preset" in keys


def test_what_shipped_scenarios_state_is_on_the_page():
    keys, of_an_arm = (
        {*keys_of(sections_part())},
        {"layer", "op", "budgets", *WHOLE_KEYS, SHARED_KEY, "training", "model_dim", "dtype"},
    )
    assert all(f"`{key}`" in BY_HAND for key in of_an_arm)
    for name, _ in list_scenarios():
        stated = yaml.safe_load((shipped_directory() / f"{name}.yaml").read_text())
        sections = ("model", "budgets", "workload", "fit", "measure", "limits")
        dotted = {f"{key}.{inner}" for key in sections for inner in stated.get(key, {})}
        assert stated.keys() | dotted <= keys
        for arm in stated["arms"].values():
            every = stated.get("every_arm", {})
            named = {**every, **arm}.get("layer") or {**every, **arm}.get("op")
            if named in ARMS:
                assert arm.keys() <= {*of_arm(named)} | of_an_arm, name
            else:
                assert ":" in named or named in entry_point_layers()


def test_the_page_says_what_can_be_swept():
    assert all(f"`{name}`" in BY_HAND for name in (*SWEPT_SECTIONS, *CASE_KEYS))


@pytest.mark.parametrize(
    ("model", "name", "type_", "left_out"),
    [
        (Measure, "rounds", "whole number from 1 to 1000", "`1`"),
        (Measure, "warmup_seconds", "number from 0 to 3600", "`0.5`"),
        (Measure, "pacer", r"`true` \| `false`", "`false`"),
        (Workload, "context", "whole number from 0 to 2^20", ""),
        (Workload, "seed", "whole number from 0 to 2^63 - 1", "`0`"),
        (Fit, "ranks", "whole number or `auto`", "`auto`"),
        (ModelShape, "heads", "whole number from 1 to 2^12", "needed without a preset"),
        (KINDS["moe"], "renormalize", r"`true` \| `false`", ""),
        (
            KINDS["memory"],
            "num_keys",
            "key count: a square such as 16M or 4096^2",
            "needed; or by `params`, `stored_bytes`",
        ),
        (KINDS["memory"], "key_dim", "whole number from 1 to 2^20", "needed"),
        (KINDS["peer"], "companion_hidden", "whole number from 0", "`0`; or by `flops_per_token`, `moved_bytes`"),
    ],
)
def test_types_and_defaults_in_words(model, name, type_, left_out):
    field = model.model_fields[name]
    assert takes(field.annotation, field.metadata) == type_
    assert default(model, name) == left_out


def test_a_list_is_told_by_what_is_in_it():
    field = Workload.model_fields["optimizers"]
    assert takes(field.annotation).startswith(r"list of `sgd` \| `adamw`")
    assert default(Workload, "optimizers") == "`[adamw, row_adagrad]`"


def test_the_limits_that_the_page_names_are_those_that_are_held():
    text = "schema_version: 1\nname: a\nmodel_dim: 64\narms: {d: {layer: dense, ffn_hidden: 64}}\n"
    parse_scenario(text, "a.yaml", ["measure.rounds=1000"])
    with pytest.raises(UsageError, match="less than or equal to 1000"):
        parse_scenario(text, "a.yaml", ["measure.rounds=1001"])


def test_the_presets_are_named():
    assert all(f"`{name}`" in sections_part() for name in PRESETS)


def test_what_the_page_shows_is_a_scenario():
    shown = re.search(r"^    schema_version.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert shown is not None
    scenario = parse_scenario(re.sub("^    ", "", shown[0], flags=re.MULTILINE), "page.yaml")
    assert len(scenario.points) == 3
    for override in re.findall(r"--set '?([\w.]+=[^'`]+)", BY_HAND):
        if "KEY" not in override:
            parse_scenario(re.sub("^    ", "", shown[0], flags=re.MULTILINE), "page.yaml", [override])
