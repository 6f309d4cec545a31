"""Files of benchmarks: one that cannot be written is refused before an hour is measured, and then nothing is lost."""

import argparse
import json

import pytest

from benchmarks.writing import add_json_option, write_found


def asked(*words):
    parser = argparse.ArgumentParser()
    add_json_option(parser)
    return parser.parse_args(words).json


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path, capsys):
    for wrong, why in ((tmp_path, "Is a directory"), (tmp_path / "none" / "found.json", "No such file")):
        with pytest.raises(SystemExit) as ended:
            asked("--json", str(wrong))
        assert ended.value.code == 2
        assert f"argument --json: {wrong} cannot be written ({why}" in capsys.readouterr().err
    assert asked("--json", str(tmp_path / "found.json")) == tmp_path / "found.json"
    assert asked() is None
    assert not any(tmp_path.iterdir())


def test_what_was_found_goes_elsewhere_when_its_place_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = tmp_path / "gone" / "found.json"
    with pytest.raises(SystemExit, match=r"--json: .*gone/found.json cannot be written .*; it is in .* instead"):
        write_found({"a": 1}, gone)
    (kept,) = tmp_path.glob("*.json")
    assert json.loads(kept.read_text()) == {"a": 1}
