"""What a run has measured so far, a line a round, on disk as soon as it is known.

A killed run loses no finished round: ``membench run --resume`` reads the journal back. The
first line says what run it is; every later one is a case's round. A line that was cut by a
crash is passed over.
"""

import json
import os
from pathlib import Path
from typing import Any

from membench.errors import UsageError
from membench.records import Round, Run

SUFFIX = ".partial.jsonl"


class Journal:
    """Appends rounds to a file. A write that fails is reported once and kept in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rounds: dict[str, list[Round]] = {}
        self.failure: str | None = None

    @classmethod
    def create(cls, path: Path, run: Run, environment: dict[str, Any]) -> "Journal":
        """A new journal.

        Raises:
            UsageError: the folder cannot be made or written, or the disk is full.
        """
        journal = cls(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        except OSError as error:
            raise UsageError(f"--output {path.parent}: cannot be written ({error.strerror})") from error
        journal._append({"run": run.model_dump(mode="json"), "environment": environment})
        if journal.failure:
            path.unlink(missing_ok=True)
            raise UsageError(f"--output {path.parent}: {journal.failure}")
        return journal

    @classmethod
    def read(cls, path: Path) -> "tuple[Journal, Run, dict[str, Any]]":
        """A journal, its run and environment.

        Raises:
            UsageError: it cannot be read, or its first line is no run.
        """
        journal = cls(path)
        try:
            text = path.read_text(errors="replace")
            if text and not text.endswith("\n"):
                with path.open("a") as stream:
                    stream.write("\n")  # so that the next round does not join the line that was cut
            lines = text.splitlines()
            head = json.loads(lines[0])
            run, environment = Run.model_validate(head["run"]), head["environment"]
        except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: is no journal of an interrupted run; start the run anew") from error
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                found = Round.model_validate(entry["round"])
            except (ValueError, KeyError, TypeError):
                continue
            journal.rounds.setdefault(entry["id"], []).append(found)
        return journal, run, environment

    def add(self, case_id: str, found: Round) -> None:
        """Keep a round; on disk at once where that is possible."""
        self.rounds.setdefault(case_id, []).append(found)
        self._append({"id": case_id, "round": found.model_dump(mode="json")})

    def has(self, case_id: str, number: int) -> bool:
        """Whether a round of a case is there and need not be measured again."""
        return any(r.number == number and r.status in ("ok", "skipped") for r in self.rounds.get(case_id, ()))

    def latest(self, case_id: str) -> list[Round]:
        """A case's rounds in order; a round measured again replaces its failed one."""
        by_number = {r.number: r for r in self.rounds.get(case_id, ())}
        return [by_number[number] for number in sorted(by_number)]

    def remove(self) -> None:
        """Forget the file: a whole result has replaced it."""
        self.path.unlink(missing_ok=True)

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            with self.path.open("a") as stream:
                stream.write(json.dumps(entry, allow_nan=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            self.failure = f"cannot be written ({error.strerror})"


def newest_journal(folder: Path, scenario: str) -> Path | None:
    """The latest interrupted run of a scenario."""
    found = sorted(folder.glob(f"{scenario}_*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None
