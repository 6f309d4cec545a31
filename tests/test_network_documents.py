"""What docs/distributed.md shows of networks is what the newest file says."""

import json

import pytest

from benchmarks.documents.networks import curve_part, gloo_part, published_part
from benchmarks.documents.scale_pictures import scale_picture
from membench.errors import UsageError

FIGURE = {
    "what": "dispatch",
    "source": "x#1",
    "ranks": 8,
    "unit": "µs",
    "published": 50.0,
    "predicted": 40.0,
    "error": -0.2,
}
CURVE = [
    {"arm": "memory", "mode": "forward", "layout": "columns", "step_ms": {"128": 2.5, "8": 1.25}},
    {"arm": "dense", "mode": "forward", "layout": "replicas", "step_ms": {"8": None}},
    {"arm": "moe", "mode": "train_step", "layout": "experts", "step_ms": {"8": None, "128": 4.0}},
]
DEVICE = {"device": {"type": "cpu", "name": "X", "cores": 2}}


def a_file(folder, name, **content):
    path = folder / f"{name}_{content['started']}.json"
    path.write_text(json.dumps({"benchmark": name, "environment": DEVICE, **content}))
    return path


@pytest.fixture
def published(tmp_path):
    old = a_file(tmp_path, "published_networks", started="2026", figures=[], curve=[])
    return [a_file(tmp_path, "published_networks", started="2027", figures=[FIGURE], curve=CURVE), old]


def test_published_and_predicted_stand_beside_each_other(published):
    made = published_part(published)
    assert "[published_networks_2027.json](../results/published_networks_2027.json)" in made
    assert "| dispatch | x#1 | 8 | 50 µs | 40 µs | -20 % |" in made


def test_a_curve_has_the_fewest_devices_first_and_no_row_of_dashes(published):
    made = curve_part(published, "forward")
    assert "| arm | shared by | 8 | 128 |" in made
    assert "| memory | columns | 1.25 | 2.5 |" in made
    assert "replicas" not in made
    assert "| moe | experts | - | 4 |" in curve_part(published, "train_step")


def test_a_calibration_counts_the_sizes_that_it_was_not_fitted_to(tmp_path):
    def size(predicted, fitted):
        return {"payload_bytes": 8, "measured_s": 1.0, "predicted_s": predicted, "fitted": fitted}

    sizes = [size(9.0, True), size(1.2, False), size(0.7, False), size(1.1, False)]
    path = a_file(
        tmp_path, "network", started="2026", ranks=2, backend="gloo", collectives={"all_gather": {"sizes": sizes}}
    )
    made = gloo_part([path])
    assert made.startswith("gloo between 2 processes on 2 cores of X ([file]")
    assert "| `all_gather` | 3 | 2 | 20 % | 30 % |" in made


def test_nothing_recorded_is_nothing_said(tmp_path):
    assert published_part([]) is gloo_part([]) is curve_part([], "forward") is None
    other = tmp_path / "network_x.json"
    other.write_text('{"benchmark": "other"}')
    assert gloo_part([other]) is None


def test_a_file_without_its_time_is_named(tmp_path):
    path = tmp_path / "network_x.json"
    path.write_text('{"benchmark": "network"}')
    with pytest.raises(UsageError, match=r"network_x\.json: started: "):
        gloo_part([path])


def drawn_with(folder, name, communication_ms):
    curve = [{**each, "communication_ms": dict.fromkeys(each["step_ms"], communication_ms)} for each in CURVE]
    return scale_picture([a_file(folder, "published_networks", started=name, figures=[], curve=curve)])


def test_the_curve_is_drawn_with_communication_apart(tmp_path, published):
    assert scale_picture(published) is None, "this file says the step alone"
    drawn = drawn_with(tmp_path, "2028", 0.5)
    assert drawn != drawn_with(tmp_path, "2030", 0.25)
    nothing_sent = drawn_with(tmp_path, "2031", 0.0)  # which a logarithmic axis has no place for
    assert len(nothing_sent) < len(drawn)
