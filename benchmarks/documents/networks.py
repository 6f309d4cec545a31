"""What docs/distributed.md says of predicted communication: beside published figures, beside gloo, and over devices."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.documents.recorded import device_named, own_form
from benchmarks.documents.tables import markdown_table
from membench.errors import UsageError
from membench.json_values import text
from membench.tables.network import within
from membench.tables.numbers import short

_MARGIN = 0.25
_PUBLISHED, _NETWORK = "published_networks", "network"


def published_part(paths: Iterable[Path]) -> str | None:
    """Every published figure with the predicted one; None as long as no file has them."""
    if (newest := _newest(paths, _PUBLISHED)) is None:
        return None
    path, content = newest
    rows = [
        [each["what"], each["source"], str(each["ranks"]), *_figures(each), f"{100 * each['error']:+.0f} %"]
        for each in content["figures"]
    ]
    headers = ["what", "source", "ranks", "published", "predicted", "error"]
    return f"From [{path.name}](../results/{path.name}):\n\n{markdown_table(headers, rows, left=2)}"


def newest_curve(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The curve of the newest file that has one; nothing as long as there is none."""
    newest = _newest(paths, _PUBLISHED)
    return [] if newest is None else newest[1]["curve"]


def _figures(each: dict[str, Any]) -> list[str]:
    return [f"{short(each[name])} {each['unit']}" for name in ("published", "predicted")]


def curve_part(paths: Iterable[Path], mode: str) -> str | None:
    """Predicted milliseconds of a step, a row a way to share a layer, a column a number of devices."""
    if (newest := _newest(paths, _PUBLISHED)) is None:
        return None
    path, content = newest
    rows = [each for each in content["curve"] if each["mode"] == mode and any(_known(each))]
    devices = list(dict.fromkeys(sorted((count for each in rows for count in each["step_ms"]), key=int)))
    cells = [[each["arm"], each["layout"], *(short(each["step_ms"].get(count)) for count in devices)] for each in rows]
    table = markdown_table(["arm", "shared by", *devices], cells, left=2)
    return f"Predicted milliseconds of `{mode}` ([file](../results/{path.name})), over devices:\n\n{table}"


def _known(each: dict[str, Any]) -> list[float]:
    return [step for step in each["step_ms"].values() if step is not None]


def gloo_part(paths: Iterable[Path]) -> str | None:
    """How well a calibration predicts sizes that it was not fitted to, a row a collective."""
    if (newest := _newest(paths, _NETWORK)) is None:
        return None
    path, content = newest
    rows = []
    for kind, of in content["collectives"].items():
        left_out = [size for size in of["sizes"] if not size["fitted"]]
        errors = sorted(abs(size["predicted_s"] / size["measured_s"] - 1) for size in left_out)
        good, checked = within({"collectives": {kind: of}}, _MARGIN)
        rows.append(
            [f"`{kind}`", str(checked), str(good), *(f"{100 * errors[at]:.0f} %" for at in (len(errors) // 2, -1))]
        )
    headers = ["collective", "sizes", "within 25 %", "middle error", "worst"]
    device, ranks = device_named(content["environment"]), content["ranks"]
    said = f"{content['backend']} between {ranks} processes on {device} ([file](../results/{path.name})):"
    return f"{said}\n\n{markdown_table(headers, rows, left=1)}"


def _newest(paths: Iterable[Path], benchmark: str) -> tuple[Path, dict[str, Any]] | None:
    """The file that was started last, of those whose name begins so.

    Raises:
        UsageError: it does not say when it was started.
    """
    found = [(path, own_form(path)) for path in paths if path.name.startswith(f"{benchmark}_")]
    ours = [(path, content) for path, content in found if content.get("benchmark") == benchmark]
    for path, content in ours:
        if text(content, "started") is None:
            raise UsageError("started is missing: a time is wanted", key="started", source=str(path))
    return max(ours, key=lambda each: each[1]["started"], default=None)
