"""Files of the user's read once before anything is trained on them: what is wrong with them ends a run at its start."""

from collections.abc import Iterable

from membench.learning.tasks import AnyTask, QAFiles, Text
from membench.training.data_files.corpus import read_corpus
from membench.training.data_files.questions import questions_of


def check_files(tasks: Iterable[AnyTask]) -> None:
    """Reads what each of the tasks reads; equal ones once.

    Raises:
        UsageError: a file cannot be used; it names the file, the line and the column.
    """
    for task in dict.fromkeys(tasks):
        match task:
            case Text():
                read_corpus(task)
            case QAFiles():
                for path in (*task.train, *task.asked):
                    questions_of(path)
