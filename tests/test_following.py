"""Which of an arm's own swept keys belong to its name, and which follow what all arms share."""

import membench
from membench.results.answers import answers_of
from membench.results.following import following
from membench.results.ranking import arm_name
from membench.results.records import read_result, write_result

from test_documents import a_measured, a_result  # isort: skip

PRESETS = (("134m", "1K", {"count": 3, "stride": 4}), ("373m", "4K", {"count": 3, "stride": 8}))


def points(*pairs):
    return [{"model.preset": preset, "arms.memory.num_keys": keys} for preset, keys in pairs]


def of_presets():
    """Dense and memory at two presets, each of which has its own number of keys."""
    records = []
    for place, (preset, keys, at) in enumerate(PRESETS):
        for arm, ms in (("dense", 1.0), ("memory", 2.0)):
            point = {"model.preset": preset}
            if arm == "memory":
                point |= {"arms.memory.num_keys": keys, "arms.memory.at": at}
            record = a_measured(arm, [ms * (1 + place + n / 100) for n in range(3)], kind=arm, point=point)
            record.planned["params"] = 1000 + place
            records.append(record.model_copy(update={"id": f"{arm} {preset}"}))
    return a_result(*records)


def test_a_key_follows_where_it_has_one_value_at_all_that_is_shared():
    assert following("memory", points(("a", "1K"), ("b", "4K"), ("a", "1K"))) == {"arms.memory.num_keys"}
    assert following("memory", points(("a", "1K"), ("a", "4K"), ("b", "4K"))) == frozenset()
    assert following("memory", points(("a", "1K"), ("b", "1K"))) == frozenset(), "one value is followed by nobody"
    assert following("memory", [{"arms.memory.num_keys": keys} for keys in ("1K", "4K")]) == frozenset()
    assert following("mem", points(("a", "1K"), ("b", "4K"))) == frozenset(), "another arm's name begins alike"


def test_arms_are_called_alike_at_every_preset():
    result = of_presets()
    assert {arm_name(record) for record in result.cases} == {"dense", "memory"}
    assert [answer.fastest for answer in answers_of(result).values()] == [["dense"], ["dense"]]
    assert all(record.point == record.planned["point"] for record in result.cases)


def test_a_value_of_several_keys_is_told_in_words():
    point = {"arms.memory.at": {"count": 3, "stride": 4}}
    (record,) = a_result(a_measured("memory", [1.0, 1.0, 1.0], kind="memory", point=point)).cases
    assert arm_name(record) == "memory at count 3 stride 4"


def test_answers_that_name_arms_in_an_older_way_are_made_anew(tmp_path):
    result = of_presets()
    made = answers_of(result)
    older = []
    for answer in made.values():
        named = [each.model_copy(update={"arm": f"{each.arm} num_keys 1K"}) for each in answer.standings]
        older.append(answer.model_copy(update={"standings": named, "fastest": ["dense num_keys 1K"]}))
    write_result(result.model_copy(update={"answers": older}), tmp_path / "r.json")
    assert answers_of(read_result(tmp_path / "r.json")) == made


def test_a_frame_keeps_every_key(tmp_path):
    write_result(of_presets(), tmp_path / "r.json")
    frame = membench.read_results(tmp_path / "r.json")
    of_memory = frame[frame["arm"] == "memory"]
    assert sorted(of_memory["point.arms.memory.num_keys"]) == ["1K", "4K"]
