"""What is known to be wrong of runs that documents still quote: what slowed some of their arms was mended since."""

from benchmarks.documents.filled import filled
from benchmarks.documents.sentences import named
from membench.json_values import text
from membench.results.records import Record, ResultFile

# From here on each thread that computes experts by itself has a core of its own.
_MENDED = "2026-11-30T05:49"


def outdated(result: ResultFile, changes_link: str = "../CHANGELOG.md") -> list[str]:
    """A sentence on the arms whose times were too long; nothing where there are none.

    Args:
        changes_link: from the document to the changelog.
    """
    if result.run.started >= _MENDED:
        return []
    arms = dict.fromkeys(record.case.arm for record in result.cases if _had_one_core(record))
    if not arms:
        return []
    told = f"when threads that computed experts had one core between them: {named(arms)} took longer than today"
    return [filled(f"From before {_MENDED.partition('T')[0]}, {told} ([changes]({changes_link})).")]


def _had_one_core(record: Record) -> bool:
    """Whether several threads took turns with experts in every round that was measured."""
    done = [each for each in record.rounds if each.status == "ok"]
    return bool(done) and all(text(r.ran, "paths", "grouped_matmul") == "loop" and (r.threads or 1) > 1 for r in done)
