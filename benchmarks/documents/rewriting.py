"""All documents that hold numbers of result files, as they should be."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.documents import main_comparison, scenario_keys
from benchmarks.documents.files_table import files_table, listed
from benchmarks.documents.marked import Maker, parts_of, with_parts
from benchmarks.documents.networks import curve_part, gloo_part, published_part
from benchmarks.documents.page import results_page
from benchmarks.documents.recorded import Recorded, newest_by_device, read_all
from benchmarks.documents.repeatability_table import repeatability_part
from benchmarks.documents.scale_pictures import NAME as SCALE_NAME
from benchmarks.documents.scale_pictures import scale_picture
from benchmarks.documents.stage_table import stages_part
from membench.errors import UsageError, blaming
from membench.files import read_file
from membench.scenario.scenario import load_scenario
from membench.scenario.shipped import list_scenarios

_DOCUMENT_BYTES = 2**22
_WITH_PARTS = ("README.md", "docs/method.md", "docs/models.md", "docs/distributed.md")
KEYS: dict[str, Maker] = {
    "keys-of-sections": lambda part: scenario_keys.sections_part(),
    "keys-of-tasks": lambda part: scenario_keys.tasks_part(),
    "keys-of-arms": lambda part: scenario_keys.arms_part(),
}


def rewritten(root: Path, names: Iterable[str]) -> dict[Path, bytes]:
    """Every file as it should be, by its path below ``root``.

    Args:
        root: of the repository.
        names: of the files in its ``results/`` that may be quoted; one that is gone is passed over.

    Raises:
        UsageError: a file or a document cannot be read, or a document's marked part has no end or no maker.
    """
    folder = root / "results"
    paths = [path for path in (folder / name for name in names) if path.exists()]
    questions = list_scenarios()
    recorded = newest_by_device(read_all(paths), [load_scenario(name) for name, _ in questions])
    page, pictures = results_page(questions, recorded)
    if (drawn := scale_picture(paths)) is not None:
        pictures = {**pictures, SCALE_NAME: drawn}
    makers = {
        "main-comparison": partial(_main_comparison, recorded, folder, main_comparison.readme_part),
        "main-comparison-seconds": partial(_main_comparison, recorded, folder, main_comparison.seconds_part),
        "repeatability": lambda part: repeatability_part(paths),
        "stages-of-decode": lambda part: stages_part(paths),
        "published-networks": lambda part: published_part(paths),
        "scale-out-forward": lambda part: curve_part(paths, "forward"),
        "scale-out-training": lambda part: curve_part(paths, "train_step"),
        "calibrated-network": lambda part: gloo_part(paths),
    }
    documents = {path: _remade(root / path, makers) for path in map(Path, _WITH_PARTS)}
    documents[Path("docs/results.md")] = page
    keys = Path("docs/scenario_keys.md")
    documents[keys] = _remade(root / keys, KEYS)
    quoted = sorted({name for text in documents.values() for name in main_comparison.quoted(text)})
    index = Path("results/README.md")
    make_table = {"files": lambda part: files_table(part, folder, quoted)}
    documents[index] = _remade(root / index, make_table)
    found = {path: text.encode() for path, text in documents.items()}
    return found | {Path("docs/pictures", name): drawn for name, drawn in pictures.items()}


def listed_files(root: Path) -> list[str]:
    """The files that ``results/README.md`` lists.

    Raises:
        UsageError: it cannot be read, or has no table.
    """
    index = root / "results/README.md"
    table = parts_of(_document(index)).get("files")
    if table is None:
        raise UsageError("the part with the table of files is missing", key="files", source=str(index))
    return listed(table)


def _remade(path: Path, makers: Mapping[str, Maker]) -> str:
    with blaming(str(path)):
        return with_parts(_document(path), makers)


def _document(path: Path) -> str:
    return read_file(path, _DOCUMENT_BYTES, "a document of this repository")


def _main_comparison(
    recorded: Mapping[str, Sequence[Recorded]], folder: Path, make: Callable[[Recorded], str | None], part: str
) -> str | None:
    each = main_comparison.chosen(recorded.get(main_comparison.SCENARIO, ()), part, folder)
    return None if each is None else make(each)
