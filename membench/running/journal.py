"""What a run has measured so far, a line a round, on disk as soon as it is known.

A killed run loses no finished round: ``membench run --resume`` reads the journal back. The
first line says what run it is; every later one is a case's round. Each carries a check sum: a
line that was cut by a crash, or changed, is passed over and its case measured again.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from membench.errors import UsageError
from membench.results.records import Round, Run, Trial

SUFFIX = ".partial.jsonl"
_NOT_AGAIN = ("ok", "skipped", "diverged")
_DAMAGED = (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError)


class Journal:
    """Appends rounds to a file. A write that fails is reported once and kept in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rounds: dict[str, list[Round]] = {}
        self.trials: dict[str, list[Trial]] = {}
        self.failure: str | None = None
        self._held: TextIO | None = None

    @classmethod
    def create(cls, path: Path, run: Run, environment: dict[str, Any]) -> "Journal":
        """A new journal.

        Raises:
            UsageError: the folder cannot be made or written, or the disk is full.
        """
        check_folder(path.parent)
        try:
            journal = cls(_created(path))
        except OSError as error:
            raise _unwritable(path.parent, error) from error
        journal._append({"run": run.model_dump(mode="json"), "environment": environment})
        if journal.failure:
            journal.remove()
            raise UsageError(journal.failure, source=f"--output {path.parent}")
        return journal

    @classmethod
    def read(cls, path: Path) -> "tuple[Journal, Run, dict[str, Any]]":
        """A journal, its run and environment.

        Raises:
            UsageError: it cannot be read, or its first line is no run.
        """
        journal = cls(path)
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
            if text and not text.endswith("\n"):
                with path.open("a", encoding="utf-8") as stream:
                    stream.write("\n")  # so that the next round does not join the line that was cut
            lines = text.splitlines()
            head = _unsealed(lines[0])
            run, environment = Run.model_validate(head["run"]), head["environment"]
        except (OSError, *_DAMAGED) as error:
            raise UsageError("is no journal of an interrupted run; start the run anew", source=str(path)) from error
        for line in lines[1:]:
            try:
                entry = _unsealed(line)
                if "trial" in entry:
                    journal.trials.setdefault(entry["id"], []).append(Trial.model_validate(entry["trial"]))
                else:
                    journal.rounds.setdefault(entry["id"], []).append(Round.model_validate(entry["round"]))
            except _DAMAGED:
                continue
        return journal, run, environment

    def add(self, case_id: str, found: Round) -> None:
        """Keep a round; on disk at once where that is possible."""
        self.rounds.setdefault(case_id, []).append(found)
        self._append({"id": case_id, "round": found.model_dump(mode="json")})

    def add_trial(self, case_id: str, found: Trial) -> None:
        """Keep a trial, as a round is kept."""
        self.trials.setdefault(case_id, []).append(found)
        self._append({"id": case_id, "trial": found.model_dump(mode="json")})

    def has(self, case_id: str, number: int) -> bool:
        """Whether a round of a case is there and need not be measured again."""
        return any(r.number == number and r.status in _NOT_AGAIN for r in self.rounds.get(case_id, ()))

    def latest(self, case_id: str) -> list[Round]:
        """A case's rounds in order; a round measured again replaces its failed one."""
        by_number = {r.number: r for r in self.rounds.get(case_id, ())}
        return [by_number[number] for number in sorted(by_number)]

    def latest_trials(self, case_id: str) -> list[Trial]:
        """A case's trials in order; one that was run again replaces its failed one."""
        found = {json.dumps([t.rates, t.seed], sort_keys=True): t for t in self.trials.get(case_id, ())}
        return [*found.values()]

    def remove(self) -> None:
        """Forget the file: a whole result has replaced it."""
        with suppress(OSError):  # one that stays does no harm
            self.path.unlink(missing_ok=True)
        self.release()

    def hold(self) -> None:
        """Keeps other runs off the file until ``release``, or this process ends; nothing where that is not offered.

        Raises:
            UsageError: another run is at work on it.
        """
        with suppress(ImportError):
            import fcntl

            try:
                self._held = self.path.open("a")
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.release()
                raise UsageError("another run is at work on it; let it end", source=str(self.path)) from None
            except OSError:
                return

    def release(self) -> None:
        """Let others at it."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _append(self, entry: dict[str, Any]) -> None:
        whole_bytes = None
        try:
            whole_bytes = self.path.stat().st_size if self.path.exists() else 0
            with self.path.open("a") as stream:
                stream.write(_sealed(entry) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            with suppress(OSError):
                if whole_bytes is not None:
                    os.truncate(self.path, whole_bytes)  # else the next line would join half of this one
            if self.failure is None and self.rounds:
                print(f"membench: {self.path} cannot be written ({error.strerror}); going on", file=sys.stderr)
            self.failure = f"cannot be written ({error.strerror})"


def newest_journal(folder: Path, scenario: str) -> Path | None:
    """The latest interrupted run of a scenario; ``a_b`` is another scenario than ``a``."""
    name = re.compile(rf"{re.escape(scenario)}_[^_]+_[^_]+_[^_]+{re.escape(SUFFIX)}")
    found = [path for path in folder.glob(f"{scenario}_*{SUFFIX}") if name.fullmatch(path.name) and path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def check_folder(folder: Path, option: str = "--output") -> None:
    """Makes the folder of the results, which ``option`` names.

    Raises:
        UsageError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unwritable(folder, error, option) from error


def _unwritable(folder: Path, error: Exception, option: str = "--output") -> UsageError:
    reason = getattr(error, "strerror", None) or error
    return UsageError(f"cannot be written ({reason}); name a folder", source=f"{option} {folder}")


def _created(path: Path) -> Path:
    """A new empty file of this name; numbered where another run of the same second has it."""
    stem, number = path.name.removesuffix(SUFFIX), 2
    while True:
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            path, number = path.with_name(f"{stem}-{number}{SUFFIX}"), number + 1
        else:
            return path


def _sealed(entry: dict[str, Any]) -> str:
    return json.dumps({**entry, "check": _check_sum(entry)}, allow_nan=False)


def _unsealed(line: str) -> dict[str, Any]:
    """A line's content; ``_DAMAGED`` is raised unless it is as it was written."""
    entry = json.loads(line)
    if entry.pop("check") != _check_sum(entry):
        raise ValueError("the line was changed")
    return entry


def _check_sum(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, allow_nan=False).encode()).hexdigest()[:16]
