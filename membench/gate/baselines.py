"""``baselines.yaml``: which result file is the one to beat, by device and scenario. It lies beside the results."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from membench.errors import UsageError, blaming, shown, usage_error
from membench.files import read_file, write_whole
from membench.json_values import text
from membench.machine.identity import Machine
from membench.machine.provenance import utc_now
from membench.results.records import MAX_RESULT_BYTES, ResultFile, read_result
from membench.yaml_files.reader import parse_mapping, read_text

FILE_NAME = "baselines.yaml"
_NEEDS = "it needs schema_version and baselines"
_HEADER = "# Written by `membench baseline set`: what `membench compare` holds new results against.\n"


class Baseline(BaseModel):
    """One file set as the baseline of its device and scenario."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    scenario: str
    device: str
    fingerprint: str
    facts: dict[str, Any] = Field(default={}, description="by which the device is told from another")
    file: str = Field(description="a name in the same folder")
    sha256: str = Field(description="of the file's content, so that nobody changes it unseen")
    set_at: str
    reason: str | None = None

    def machine(self, folder: Path) -> Machine:
        """The device it is of; of one that was set before facts were kept, as its file tells."""
        if self.facts:
            return Machine.known_by(self.fingerprint, self.facts)
        with suppress(UsageError):
            return Machine.of(read_result(folder / self.file).environment)
        return Machine(self.fingerprint)


class Baselines(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: int = 1
    baselines: list[Baseline] = []

    def find(self, machine: Machine, scenario: str, folder: Path) -> Baseline | None:
        """The baseline of a scenario on a device, of these baselines of ``folder``."""
        of_scenario = (each for each in self.baselines if each.scenario == scenario)
        return next((each for each in of_scenario if each.machine(folder).difference(machine) is None), None)


def read_baselines(folder: Path) -> Baselines:
    """The baselines of a folder of results; none where the file is not there.

    Raises:
        UsageError: the file is there and makes no sense.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return Baselines()
    with blaming(str(path)):
        try:
            found = Baselines.model_validate(parse_mapping(read_text(path, _NEEDS), str(path), _NEEDS))
        except ValidationError as error:
            raise usage_error(error, Baselines) from None
        if found.schema_version != 1:
            raise UsageError(f"{found.schema_version} is not supported; this membench reads 1", key="schema_version")
        for index, baseline in enumerate(found.baselines):
            if Path(baseline.file).name != baseline.file:
                problem = f"should be the name of a file in the same folder, not {shown(baseline.file)}"
                raise UsageError(problem, key=f"baselines[{index}].file")
    return found


def baseline_path(folder: Path, baseline: Baseline) -> Path:
    """The file of a baseline.

    Raises:
        UsageError: it is gone, or was changed since it was set.
    """
    path = folder / baseline.file
    if not path.is_file():
        problem = f"{baseline.file} is not there any more; set another with: membench baseline set FILE"
        raise UsageError(problem, source=str(folder / FILE_NAME), key=f"baseline of {baseline.scenario}")
    if content_sha256(path) != baseline.sha256:
        problem = f"was changed since it was set as the baseline of {baseline.scenario}; if that is meant, set it again"
        raise UsageError(f"{problem}: membench baseline set {path}", source=str(path))
    return path


def set_baseline(path: Path, result: ResultFile, reason: str | None) -> tuple[Baseline, Baseline | None]:
    """Make ``path`` the baseline of its device and scenario. Returns it, and the one it replaces.

    Raises:
        UsageError: baselines.yaml makes no sense or cannot be written.
    """
    folder = path.parent
    known = read_baselines(folder)
    machine = Machine.of(result.environment)
    baseline = Baseline(
        scenario=result.run.scenario,
        device=text(result.environment, "device", "name") or "an unknown device",
        fingerprint=machine.fingerprint,
        facts=machine.facts,
        file=path.name,
        sha256=content_sha256(path),
        set_at=utc_now(),
        reason=reason,
    )
    before = known.find(machine, baseline.scenario, folder)
    kept = [each for each in known.baselines if each is not before]
    content = Baselines(baselines=[*kept, baseline]).model_dump(mode="json", exclude_none=True)
    content_text = _HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    try:
        write_whole(folder / FILE_NAME, content_text.encode())
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror})", source=str(folder / FILE_NAME)) from error
    return baseline, before


def content_sha256(path: Path) -> str:
    """Of a result file's text.

    Raises:
        UsageError: it cannot be read.
    """
    return hashlib.sha256(read_file(path, MAX_RESULT_BYTES, "a result file of membench run").encode()).hexdigest()
