"""Ids last: those of before stay, whatever fields and kinds come and whatever is renamed."""

import json
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
from pydantic import BaseModel, Discriminator, Field, create_model
from recorded_ids import configs, defaults, hashed_always, ids_of, recorded

from membench.case import Case, RoutingConfig
from membench.layers import build
from membench.layers.spec import AnySpec, ExternalSpec, TokenSpec, spec_from
from membench.learning.tasks import TASKS
from membench.planning.planner import make_plan
from membench.results.records import read_result
from membench.running.protocol import Build
from membench.scenario.scenario import parse_scenario
from membench.scenario.settings import Measure
from membench.scenario.shipped import find_scenario, list_scenarios

RECORDED = recorded()
RESULTS = Path(__file__).parent.parent / "results"
ADD = "run python -m tests.recorded_ids, which adds it"

KEYS = {"num_keys": 1024, "key_dim": 32, "top_k": 8}
EXPERTS = {"num_experts": 16, "expert_hidden": 64}
ATTENTION = {"heads": 4, "kv_heads": 2, "head_dim": 16}
SPECS = {
    "dense": {"model_dim": 64, "ffn_hidden": 128},
    "moe": {"model_dim": 64, **EXPERTS},
    "memory": {"model_dim": 64, **KEYS},
    "memory_plus": {"model_dim": 64, **KEYS},
    "peer": {"model_dim": 64, **KEYS},
    "external": {"model_dim": 64, "factory": "package.module:build"},
    "weighted_bag": {"model_dim": 64, "num_keys": 1024},
    "key_scores": {"num_keys": 1024, "key_dim": 32},
    "product_key_top_k": {"num_keys": 1024},
    "expert_rows": {"model_dim": 64, "num_keys": 1024},
    "grouped_experts": {"model_dim": 64, **EXPERTS},
    "block": {"model_dim": 64, "attention": ATTENTION, "ffn": {"kind": "dense", "model_dim": 64, "ffn_hidden": 128}},
    "model": {"model_dim": 64, "attention": ATTENTION, "ffn_hidden": 128, "vocab_size": 256, "num_blocks": 2},
}


def a_case(layer=None, case=Case, **more):
    return case(
        arm="arm", mode="forward", layer=layer or spec_from({"kind": "dense", **SPECS["dense"]}), tokens=8, **more
    )


def with_fields(config, **fields):
    """The class as it is after a later change: with more fields, each (type, default)."""
    return create_model(config.__name__, __base__=config, **fields)


def of(spec):
    """The case's class where one more class of layers is known."""
    return create_model("Case", __base__=Case, layer=(spec, ...))


# What is kept


@pytest.mark.parametrize("scenario", RECORDED["scenarios"])
def test_the_cases_of_shipped_scenarios_have_the_ids_they_had(scenario):
    before, now = RECORDED["scenarios"][scenario], ids_of(scenario)
    lost = {label: id_ for label, id_ in before.items() if id_ not in now.values()}
    new = {label: id_ for label, id_ in now.items() if id_ not in before.values()}
    assert (lost, new) == ({}, {}), (
        f"kept results of {scenario} no longer compare. If its cases were changed on purpose, record them: "
        f"python -m tests.recorded_ids {scenario}"
    )


def test_every_shipped_scenario_is_recorded():
    assert {name for name, _ in list_scenarios()} == RECORDED["scenarios"].keys(), ADD


def test_kept_results_have_the_ids_that_they_say():
    cases = 0
    for path in RESULTS.glob("*.json"):
        if "schema_version" in json.loads(path.read_text()):  # benchmarks have files there too
            records = read_result(path).cases
            assert [record.case.id for record in records] == [record.id for record in records]
            cases += len(records)
    assert cases >= 100


def test_the_fields_of_the_first_version_are_a_closed_list():
    assert hashed_always() == RECORDED["hashed_always"], (
        "a field that comes later is hashed where it is used, without being listed; listed, it changes every id"
    )


def test_defaults_stay():
    """A case that leaves a field out is one that was measured when there was no such field, at this default."""
    for name, config in configs().items():
        known = RECORDED["defaults"].get(name, {})
        for field, default in defaults(config).items():
            assert field in known, f"{name}.{field} is new: {ADD}"
            assert default == known[field], (
                f"{name}.{field} was {known[field]!r} where it was left out: cases measured so would be taken for "
                f"those at {default!r}. Leave the default, and say the new value in scenarios"
            )


def test_what_a_case_is_made_of_is_found():
    kinds = {spec.__name__ for spec in get_args(AnySpec)}
    learnt = {"Training", "Stop", "Tuning", *(task.__name__ for task in TASKS.values())}
    assert configs().keys() == {"Case", "RoutingConfig", "AttentionSpec"} | kinds | learnt
    assert {spec.model_fields["kind"].default for spec in get_args(AnySpec)} == SPECS.keys()


# Fields that come later


@pytest.mark.parametrize("kind", SPECS)
def test_a_field_added_to_a_layer_changes_no_id(kind):
    spec = spec_from({"kind": kind, **SPECS[kind]})
    later = with_fields(type(spec), later=(int, 7), also=(list[str], Field(default_factory=list)))
    before = a_case(spec).id
    given = spec.model_dump()
    assert a_case(later(**given), of(later)).id == before
    assert a_case(later(**given, later=7, also=[]), of(later)).id == before, "said or left out, it is the same"
    used = {a_case(later(**given, **more), of(later)).id for more in ({"later": 8}, {"also": ["x"]}, {"later": 9})}
    assert len(used | {before}) == 4


def test_a_field_added_to_the_routing_changes_no_id():
    later = with_fields(RoutingConfig, later=(float, 0.5))
    case = create_model("Case", __base__=Case, routing=(later, later()))
    before = a_case(routing=RoutingConfig(kind="zipf")).id
    assert a_case().id == a_case(case=case).id
    assert a_case(case=case, routing={"kind": "zipf"}).id == before
    assert a_case(case=case, routing={"kind": "zipf", "later": 0.5}).id == before
    assert a_case(case=case, routing={"kind": "zipf", "later": 0.6}).id != before


class Task(BaseModel):
    name: str = "copy"
    length: int


class Training(BaseModel):
    steps: int = 100
    task: Task = Task(length=8)
    more: list[Task] = []
    by_name: dict[str, Task] = {}


def test_a_section_added_to_a_case_changes_no_id():
    later = with_fields(Case, training=(Training | None, None), repeats=(int, 1), task=(Task, Task(length=3)))
    before = a_case().id
    assert a_case(case=later).id == before
    assert a_case(case=later, training=None, repeats=1, task={"length": 3, "name": "copy"}).id == before
    used = [
        {"repeats": 2},
        {"task": {"length": 4}},
        {"task": {"length": 3, "name": "sort"}},
        {"training": {}},
        {"training": {"steps": 5}},
        {"training": {"task": {"length": 9}}},
        {"training": {"more": [{"length": 9}]}},
        {"training": {"by_name": {"first": {"length": 9}}}},
    ]
    assert len({a_case(case=later, **more).id for more in used} | {before}) == len(used) + 1


@pytest.mark.parametrize(
    "training",
    [{}, {"task": {"length": 9}}, {"more": [{"length": 9}, {"length": 1}]}, {"by_name": {"first": {"length": 9}}}],
)
def test_a_field_added_inside_a_later_section_changes_no_id(training):
    first = with_fields(Case, training=(Training | None, None))
    task = with_fields(Task, noise=(float, 0.0))
    lists = {"more": (list[task], []), "by_name": (dict[str, task], {})}
    section = with_fields(Training, task=(task, task(length=8)), batch=(int, 32), **lists)
    second = with_fields(Case, training=(section | None, None))
    assert a_case(case=second, training=training).id == a_case(case=first, training=training).id
    assert a_case(case=second, training={**training, "batch": 64}).id != a_case(case=first, training=training).id
    noisy = {"more": [{"length": 9, "noise": 0.1}]}
    assert a_case(case=second, training=noisy).id != a_case(case=first, training={"more": [{"length": 9}]}).id


class OneSpec(TokenSpec):
    kind: Literal["one"] = "one"
    width: int = 2


class OtherSpec(TokenSpec):
    kind: Literal["other"] = "other"
    width: int = 2


def test_a_new_kind_needs_no_list():
    both = of(Annotated[OneSpec | OtherSpec, Discriminator("kind")])
    ids = [a_case({"kind": kind, "model_dim": 64}, both).id for kind in ("one", "other")]
    assert len(set(ids)) == 2, "at their defaults, two kinds are still two"
    later = with_fields(OneSpec, height=(int, 3))
    assert a_case({"model_dim": 64, "height": 3}, of(later)).id == ids[0]
    assert a_case({"model_dim": 64, "width": 3}, of(later)).id != ids[0]


def test_a_default_may_depend_on_other_fields():
    def doubled(known):
        return 2 * known["width"]

    later = with_fields(OneSpec, height=(int, Field(default_factory=doubled)))
    before = a_case({"model_dim": 64, "width": 5}, of(OneSpec)).id
    assert a_case({"model_dim": 64, "width": 5}, of(later)).id == before
    assert a_case({"model_dim": 64, "width": 5, "height": 10}, of(later)).id == before
    assert a_case({"model_dim": 64, "width": 5, "height": 4}, of(later)).id != before


# Renamed modules

OPTIONS = {"num_keys": 1024, "heads": 2, "top_k": 4, "key_dim": 32}
# factory, the same by today's name, and its id when it was known by the first alone
FACTORIES = [
    ("layers.peers.embedding_bag:build", "layers.public.embedding_bag:build", "c96c69245afd8c41"),
    ("membench.layers.peers.embedding_bag:build", "membench.layers.public.embedding_bag:build", "a3796867dbe32e74"),
    # of a user's own package that is called layers, too
    ("layers.peers.mine:build", "layers.peers.mine:build", "61eba4aeac4f12e3"),
    ("layers.public.mine:build", "layers.public.mine:build", "321ffd3099d5dd69"),
]


@pytest.mark.parametrize(("former", "now", "id_"), FACTORIES)
def test_a_renamed_layer_keeps_its_id_under_both_names(former, now, id_):
    for factory in (former, now):
        spec = ExternalSpec(model_dim=64, factory=factory, options={"num_keys": 1024, "key_dim": 32})
        assert spec.factory == now
        assert Case(arm="a", mode="forward", tokens=8, layer=spec).id == id_


def former_names(text):
    assert "layers.public." in text
    return text.replace("layers.public.", "layers.peers.")


@pytest.mark.parametrize("module", ["embedding_bag", "peer_pytorch", "product_key_memory", "transformers_moe"])
@pytest.mark.parametrize("house", ["", "membench."])
def test_every_public_layer_has_its_former_name(house, module):
    now, former = f"{house}layers.public.{module}:build", f"{house}layers.peers.{module}:build"
    assert ExternalSpec(model_dim=64, factory=former) == ExternalSpec(model_dim=64, factory=now)
    assert ExternalSpec(model_dim=64, factory=now).under_first_names().factory == former


def test_a_scenario_with_former_names_is_planned_as_the_same_cases():
    text = find_scenario("peers").read_text()
    former, now = (make_plan(parse_scenario(each, "peers.yaml")).cases for each in (former_names(text), text))
    assert [each.case for each in former] == [each.case for each in now]
    assert [each.id for each in former] == [each.id for each in now]


def test_a_layer_is_built_by_its_former_name():
    spec = ExternalSpec(model_dim=64, dtype="float32", factory="layers.peers.embedding_bag:build", options=OPTIONS)
    assert type(build(spec).module).__module__ == "membench.layers.public.embedding_bag"


def test_results_with_former_names_are_of_the_same_cases(tmp_path):
    texts = {path: path.read_text() for path in RESULTS.glob("peers_*.json")}
    ((path, text),) = (each for each in texts.items() if '"layers.peers.embedding_bag:build"' in each[1])
    now = tmp_path / "now.json"
    now.write_text(text.replace('"layers.peers.', '"layers.public.'))
    before, after = (read_result(each).cases for each in (path, now))
    assert [(each.id, each.case.id, each.case) for each in before] == [(each.id, each.id, each.case) for each in after]


def test_processes_of_an_earlier_commit_are_told_what_they_know():
    """An ab asks both sides alike: a field that a side's layers lack, or a new name, is told only where it is used."""
    memory = spec_from({"kind": "memory", **SPECS["memory"]})
    public = ExternalSpec(model_dim=64, factory="layers.public.embedding_bag:build", options=OPTIONS)
    host = memory.model_copy(update={"table_on": "host"})
    cases = [a_case(spec, routing=RoutingConfig(kind="zipf", trace="x.npy")) for spec in (memory, public, host)]
    told = Build.of(cases, "cpu", Measure()).model_dump(mode="json", exclude_defaults=True)
    plain, renamed, used = (case["layer"] for case in told["cases"])
    assert not {"table_on", "row_format"} & plain.keys()
    assert {"num_keys", "heads", "query_norm"} <= plain.keys()
    assert renamed["factory"] == "layers.peers.embedding_bag:build"
    assert used == {**plain, "table_on": "host"}
    assert Build.model_validate(told).cases == cases
    assert "retake_seconds" not in told
    run = Build.of(cases, "cpu", Measure(max_seconds=3.0), retake=True)
    assert Build.model_validate(run.model_dump(mode="json")).retake_seconds == 1.5
