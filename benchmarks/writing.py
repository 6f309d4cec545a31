"""What a benchmark found, as a file of its own form."""

from pathlib import Path
from typing import Any

from membench.files import blaming_output, write_whole
from membench.results.records import strict_json


def write_found(found: dict[str, Any], path: Path, option: str) -> None:
    """Writes it whole or not at all, as strict JSON.

    Raises:
        UsageError: ``path``, which ``option`` names, cannot be written.
    """
    with blaming_output(path, option):
        write_whole(path, (strict_json(found) + "\n").encode())
