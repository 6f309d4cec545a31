"""What a benchmark found, as a file of its own form."""

import argparse
import sys
from pathlib import Path
from typing import Any

from membench.errors import UsageError
from membench.files import blaming_output, check_writable, rescue, write_whole
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


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """``--json FILE``, a ``Path`` or None. What cannot be written is refused before anything is measured."""
    parser.add_argument("--json", type=_writable, metavar="FILE", help="write what was found here")


def _writable(text: str) -> Path:
    try:
        check_writable(path := Path(text), "")
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def write_found(found: dict[str, Any], path: Path, *, option: str = "--json") -> None:
    """Writes it whole or not at all, as strict JSON; where that fails, elsewhere, and the program ends with a line."""
    content = (strict_json(found) + "\n").encode()
    try:
        with blaming_output(path, option):
            write_whole(path, content)
    except UsageError as error:
        elsewhere = rescue(content, path.name)
        sys.exit(f"{error}; it is in {elsewhere} instead" if elsewhere else str(error))
