"""SUMMARY.md: one page that says what passed, how long it took, what was found, and what was skipped and why."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FIGURES = 60  # lines


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a part: ``passed``, ``failed``, ``stopped`` (out of its time), ``skipped``, or ``running``."""

    name: str
    state: str
    seconds: float = 0.0
    note: str = ""


def summary(machine: list[str], outcomes: list[Outcome], found: list[str], left_out: list[str]) -> str:
    """The page, from what is finished so far; ``found`` are the figures, ``left_out`` files too large to come back."""
    count = {
        state: sum(outcome.state == state for outcome in outcomes)
        for state in ("passed", "failed", "stopped", "skipped")
    }
    lines = ["# GPU run", "", ", ".join(f"{number} {state}" for state, number in count.items()), ""]
    lines += [f"- {line}" for line in machine]
    lines += ["", "| part | | seconds | |", "|---|---|--:|---|"]
    lines += [f"| {each.name} | {each.state} | {each.seconds:.0f} | {_cell(each.note)} |" for each in outcomes]
    shown = found[:_FIGURES]
    lines += ["", "## Figures", "", *(f"- {line}" for line in shown or ["none"])]
    if len(found) > len(shown):
        lines.append(f"- {len(found) - len(shown)} more in the result files")
    if left_out:
        lines += ["", f"Too large to come back: {', '.join(left_out)}"]
    return "\n".join(lines) + "\n"


def figures(results: Path) -> list[str]:
    """Lines about every result file there is; one that cannot be read says so and hides no other."""
    found = []
    for path in sorted(results.rglob("*")):
        reader = _READERS.get(path.name, _of_cases if path.suffix == ".json" else None)
        if reader is None or not path.is_file():
            continue
        try:
            found += reader(path)
        except Exception as error:  # a part that was stopped leaves half a file
            found.append(f"{path.name}: not readable ({type(error).__name__})")
    return found


def _of_cases(path: Path) -> list[str]:
    """A result file: the steps' times."""
    found, bad = [], 0
    content = json.loads(path.read_text())
    scenario = content.get("run", {}).get("scenario", path.name)
    for case in content.get("cases", []):
        config, metrics = case["case"], case.get("metrics") or {}
        if case["status"] != "ok":
            bad += 1
            continue
        words = [
            config["arm"],
            config["mode"],
            config.get("optimizer") or "",
            f"{config['tokens']} tokens",
            _shape(case),
        ]
        facts = [f"{metrics['latency_ms_p50']:.4g} ms"]
        facts += [f"{name} {metrics[name]:.2f}" for name in ("mfu", "mbu") if metrics.get(name) is not None]
        found.append(f"{scenario}: {' '.join(filter(None, words))}: {', '.join(facts)}")
    if bad:
        found.append(f"{scenario}: {bad} cases not measured")
    return found


def _shape(case: dict[str, Any]) -> str:
    """What tells a case from others of its arm and tokens: its place on the scenario's axes."""
    point = (case.get("planned") or {}).get("point") or {}
    axes = {key.rpartition(".")[2]: value for key, value in point.items() if key != "workload.tokens"}
    words = [f"{name} {value}" for name, value in axes.items() if not isinstance(value, dict)]
    return f"({', '.join(words)})" if words else ""


def _of_clock(path: Path) -> list[str]:
    ratios = [case["ratio"] for case in json.loads(path.read_text())["cases"]]
    return [f"clock over the other clock: {min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} cases"]


def _of_training(path: Path) -> list[str]:
    found = []
    for text in path.read_text().splitlines():
        line = json.loads(text)
        what = f"training, {line['keys']} keys of {line['value_dim']}, {line['tokens']} tokens"
        if "reason" in line:
            found.append(f"{what}: {line['reason']}")
        else:
            found.append(f"{what}: {line['step_ms']:.4g} ms, loss {line['first_loss']:.3g} to {line['last_loss']:.3g}")
    return found


def _of_counters(path: Path) -> list[str]:
    counted = counted_bytes(path.read_text())
    stated = json.loads(path.with_name("bag_bytes.json").read_text())["bytes_dram_expected"]
    return [f"bag: {counted / 1e9:.3f} GB counted, {stated / 1e9:.3f} GB expected, ratio {counted / stated:.3f}"]


def counted_bytes(text: str) -> float:
    """The sum of the DRAM bytes in the raw page that ``ncu --csv`` prints.

    Raises:
        ValueError: it holds no such numbers.
    """
    lines = text.splitlines()
    start = next((at for at, line in enumerate(lines) if "dram__bytes" in line), None)
    if start is None:
        raise ValueError("no DRAM counters")
    names, units, *rows = csv.reader(io.StringIO("\n".join(lines[start:])))
    scales = {"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}
    columns = [
        (at, scales[unit]) for at, (name, unit) in enumerate(zip(names, units, strict=True)) if "dram__bytes" in name
    ]
    return sum(
        float(row[at].replace(",", "")) * scale for row in rows if len(row) == len(names) for at, scale in columns
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:400]


_READERS: dict[str, Any] = {
    "clock_check.json": _of_clock,
    "training_sizes.jsonl": _of_training,
    "dram_counters.csv": _of_counters,
    "bag_bytes.json": lambda path: [],
}
