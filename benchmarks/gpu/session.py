"""Parts one after the other in their time boxes; whatever happens to one, the next follows, and OUT is up to date."""

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.gpu import outputs
from benchmarks.gpu.parts import Part
from benchmarks.gpu.processes import boxed
from benchmarks.gpu.summary import Outcome, summary

_PACKING_S = 5.0  # for the last files
_SHORTEST_S = 3.0  # a part that would get less is not begun


class Session:
    """One run of all parts.

    Attributes:
        outcomes: of the parts so far.
        results: the folder that parts write result files to; it comes back packed.
    """

    def __init__(
        self, out: Path, seconds: float, root: Path, environment: Mapping[str, str], machine: list[str]
    ) -> None:
        """Raises OSError if ``out`` cannot be written."""
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._end, self._root = out, time.monotonic() + seconds, root
        self._environment, self._machine = environment, machine
        self._scratch = Path(tempfile.mkdtemp(prefix="membench-gpu-"))
        self.results = self._scratch / "results"
        self.results.mkdir()
        self._log = self._scratch / outputs.LOG
        self._log.touch()
        self.outcomes: list[Outcome] = []
        outputs.replace(out / outputs.SUMMARY, summary(machine, [], self.results, []).encode())
        self._save()

    def run(self, parts: list[Part]) -> bool:
        """Runs them; whether all that were not skipped passed and what they left is under OUT."""
        try:
            for at, part in enumerate(parts):
                self._one(part, sum(each.seconds for each in parts[at:]))
            written = self._save()
            return written and all(outcome.state in ("passed", "skipped") for outcome in self.outcomes)
        except BaseException as error:
            self._settle(
                Outcome(self._running, "failed", note=f"the run was ended: {type(error).__name__} {error}".strip())
            )
            raise
        finally:
            self._save()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _one(self, part: Part, share: float) -> None:
        self._running = part.name
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
        begin, state, note = time.monotonic(), "failed", ""
        own = self._scratch / "part.txt"
        try:
            code = self._run(part, seconds, own)
            state = "stopped" if code is None else "failed" if code else "passed"
            note = f"after its {seconds:.0f} s" if code is None else f"exit code {code}" if code else ""
        except OSError as error:
            note = str(error)
        note = "; ".join(filter(None, [note, _last_line(own)]))
        self._settle(Outcome(part.name, state, time.monotonic() - begin, note))

    def _run(self, part: Part, seconds: float, own: Path) -> int | None:
        with self._log.open("ab") as log, own.open("wb") as text:
            log.write(f"\n== {part.name}: {' '.join(part.command)}\n".encode())
        try:
            with own.open("ab") as text:
                command = part.command
                if part.output:
                    command = ["/bin/sh", "-c", 'exec "$@" >"$0"', str(self.results / part.output), *command]
                return boxed(command, seconds, text, self._environment, self._root, lambda: self._save(own))
        finally:
            with self._log.open("ab") as log:
                log.write(outputs.cut(own.read_bytes(), outputs.FILE_BYTES // 4))

    def _settle(self, outcome: Outcome) -> None:
        if self.outcomes and self.outcomes[-1].state == "running":
            self.outcomes.pop()
        self.outcomes.append(outcome)
        if outcome.state != "passed":
            print(f"         {outcome.name}: {outcome.state} {outcome.note}", flush=True)
        self._save()

    def _save(self, running: Path | None = None) -> bool:
        """Writes the three files; whether all could be. What cannot be written is said; the parts go on."""
        written = True
        text = self._log.read_bytes() + (running.read_bytes() if running else b"")
        archive, left_out = outputs.packed(self.results)
        page = summary(self._machine, self.outcomes, self.results, left_out)
        for name, content in (
            (outputs.SUMMARY, page.encode()),
            (outputs.RESULTS, archive),
            (outputs.LOG, outputs.cut(text)),
        ):
            try:
                outputs.replace(self._out / name, content)
            except OSError as error:
                print(f"{self._out / name}: {error.strerror}", flush=True)
                written = False
        return written


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1].strip() if lines else ""
