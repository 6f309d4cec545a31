"""Parts one after the other in their time boxes; whatever happens to one, the next follows, and OUT is up to date."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.gpu import outputs
from benchmarks.gpu.parts import Part
from benchmarks.gpu.processes import boxed
from benchmarks.gpu.summary import Outcome, figures, summary

_PACKING_S = 5.0  # for the last files
_SHORTEST_S = 3.0  # a part that would get less is not begun
_PART_LOG_BYTES = outputs.FILE_BYTES // 4  # of one part's log


class Session:
    """One run of all parts.

    Attributes:
        outcomes: of the parts so far.
        results: the folder that parts write result files to; it comes back packed.
    """

    def __init__(self, out: Path, scratch: Path, seconds: float, root: Path, environment: Mapping[str, str]) -> None:
        """A run that ends in ``seconds``.

        Args:
            scratch: a folder for what parts write while they run; the caller's, who removes it.
            root: where parts run.
            environment: what they run in.

        Raises:
            OSError: ``out`` or ``scratch`` cannot be written.
        """
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._scratch, self._end = out, scratch, time.monotonic() + seconds
        self._root, self._environment = root, environment
        self._machine: list[str] = []
        self.results = scratch / "results"
        self.results.mkdir(parents=True)
        self._archive, self._figures = outputs.Archive(self.results), []
        self._log = scratch / outputs.LOG
        self._log.touch()
        self.outcomes: list[Outcome] = []
        self._running = "machine"
        outputs.replace(out / outputs.SUMMARY, summary([], [], [], []).encode())

    def run(self, parts: list[Part], machine: Callable[[], list[str]] = list) -> bool:
        """Runs them; whether all that were not skipped passed and what they left is under OUT.

        Args:
            machine: lines about what ran this, asked for first.
        """
        try:
            self._guarded("machine", lambda: self._machine.extend(machine()))
            for at, part in enumerate(parts):
                self._guarded(part.name, self._one, part, sum(each.seconds for each in parts[at:]))
            written = self._save()
            return written and all(outcome.state in ("passed", "skipped") for outcome in self.outcomes)
        except BaseException as error:
            self._settle(Outcome(self._running, "failed", note=f"the run was ended: {_told(error)}"))
            raise
        finally:
            self._save()

    def _guarded(self, name: str, step: Callable[..., None], *given: object) -> None:
        """A step whose errors are a failed part."""
        self._running = name
        try:
            step(*given)
        except Exception as error:
            self._settle(Outcome(name, "failed", note=_told(error)))

    def _one(self, part: Part, share: float) -> None:
        if reason := part.skipped():
            self._settle(Outcome(part.name, "skipped", note=reason))
            return
        seconds = (self._end - _PACKING_S - time.monotonic()) * part.seconds / share
        if seconds < _SHORTEST_S:
            self._settle(
                Outcome(part.name, "stopped", note=f"its share of the time would be {max(0.0, seconds):.1f} s")
            )
            return
        print(f"{time.strftime('%H:%M:%S')} {part.name}, at most {seconds:.0f} s", flush=True)
        self.outcomes.append(Outcome(part.name, "running"))
        begin, own, state = time.monotonic(), self._scratch / "part.txt", "failed"
        try:
            code, left_out = self._run(part, seconds, own)
            state = "stopped" if code is None else "failed" if code or left_out else "passed"
            note = f"not done in its {seconds:.0f} s" if code is None else f"exit code {code}" if code else ""
        except OSError as error:
            note, left_out = str(error), ""
        note = "; ".join(filter(None, [note, left_out, _last_line(own).replace(f"{self.results}/", "")]))
        self._settle(Outcome(part.name, state, time.monotonic() - begin, note))

    def _run(self, part: Part, seconds: float, own: Path) -> tuple[int | None, str]:
        """The exit code of a part in its time box, and a word about output that does not come back."""
        with self._log.open("ab") as log:
            log.write(f"\n== {part.name}: {' '.join(part.command)}\n".encode())
        command, output = part.command, self._results_of(part)
        if output:
            command = ["/bin/sh", "-c", 'exec "$@" >"$0"', str(output), *command]
        try:
            with own.open("wb") as text:
                code = boxed(command, seconds, text, self._environment, self._root, lambda: self._save(own))
        finally:
            with self._log.open("ab") as log:
                log.write(outputs.excerpt(own, _PART_LOG_BYTES))
        return code, self._kept(output) if output else ""

    def _results_of(self, part: Part) -> Path | None:
        """Where a part's output goes first: JSON is worth something only when it is whole, lines as they come."""
        if part.output is None:
            return None
        return (self._scratch if part.output.endswith(".json") else self.results) / part.output

    def _kept(self, output: Path) -> str:
        """Moves whole JSON to the results; a word about half of it."""
        if output.parent == self.results:
            return ""
        try:
            json.loads(output.read_bytes())
        except (OSError, ValueError):
            return f"no {output.name}: it is not whole"
        output.replace(self.results / output.name)
        return ""

    def _settle(self, outcome: Outcome) -> None:
        if self.outcomes and self.outcomes[-1].state == "running":
            self.outcomes.pop()
        self.outcomes.append(outcome)
        if outcome.state != "passed":
            print(f"         {outcome.name}: {outcome.state} {outcome.note}", flush=True)
        self._figures = figures(self.results)
        self._save()

    def _save(self, running: Path | None = None) -> bool:
        """Writes the three files; whether all could be. What cannot be written is said; the parts go on."""
        try:
            archive, left_out = self._archive.packed()
            outputs.replace(self._out / outputs.RESULTS, archive)
            page = summary(self._machine, self.outcomes, self._figures, left_out)
            outputs.replace(self._out / outputs.SUMMARY, page.encode())
            log = outputs.excerpt(self._log, outputs.FILE_BYTES - _PART_LOG_BYTES)
            more = outputs.excerpt(running, _PART_LOG_BYTES) if running else b""
            outputs.replace(self._out / outputs.LOG, log + more)
        except OSError as error:
            print(f"{self._out}: {error}", flush=True)
            return False
        return True


def _told(error: BaseException) -> str:
    return f"{type(error).__name__} {error}".strip()


def _last_line(path: Path) -> str:
    lines = outputs.excerpt(path, 2**16).decode(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1].strip() if lines else ""
