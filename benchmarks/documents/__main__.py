"""Rewrites what documents quote of result files: docs/results.md with its pictures, and marked parts of others.

python -m benchmarks.documents            # all files in results/
python -m benchmarks.documents --listed   # only those that results/README.md lists already
"""

import argparse
from pathlib import Path

from benchmarks.documents.rewriting import listed_files, rewritten
from membench.errors import UsageError

_ROOT = Path(__file__).parents[2]
_PICTURES = Path("docs/pictures")


def main() -> None:
    """Writes every document that differs, and removes pictures that no page shows any more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listed", action="store_true", help="leave out files that results/README.md doesn't list")
    asked = parser.parse_args()
    every = sorted(path.name for path in (_ROOT / "results").glob("*.json"))
    try:
        made = rewritten(_ROOT, listed_files(_ROOT) if asked.listed else every)
    except UsageError as error:
        raise SystemExit(f"benchmarks.documents: {error}") from None
    for path, content in made.items():
        full = _ROOT / path
        if not full.exists() or full.read_bytes() != content:
            full.parent.mkdir(parents=True, exist_ok=True)
            full.write_bytes(content)
            print(f"{path}: rewritten")
    for path in sorted((_ROOT / _PICTURES).glob("*.svg")):
        if path.relative_to(_ROOT) not in made:
            path.unlink()
            print(f"{path.relative_to(_ROOT)}: removed")


if __name__ == "__main__":
    main()
