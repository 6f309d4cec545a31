"""What a benchmark found, as a file of its own form."""

from pathlib import Path
from typing import Any

from membench.files import blaming_output, write_whole
from membench.git.commit import running_commit
from membench.machine.provenance import probe_environment, utc_now
from membench.results.records import strict_json


def heading(benchmark: str, started: str, environment: dict[str, Any] | None = None) -> dict[str, Any]:
    """What such a file begins with: of what, when, of which commit and on what; it has just finished.

    Args:
        environment: of the CPU, where it was asked before measuring; else it is asked now.
    """
    sha, dirty, _ = running_commit()
    return {
        "benchmark": benchmark,
        "started": started,
        "finished": utc_now(),
        "git_sha": sha,
        "git_dirty": dirty,
        "environment": probe_environment("cpu") if environment is None else environment,
    }


def write_found(found: dict[str, Any], path: Path, option: str) -> None:
    """Writes it whole or not at all, as strict JSON.

    Raises:
        UsageError: ``path``, which ``option`` names, cannot be written.
    """
    with blaming_output(path, option):
        write_whole(path, (strict_json(found) + "\n").encode())
