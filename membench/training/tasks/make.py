"""A task's data, of its config and a seed."""

from membench.learning.tasks import (
    AnyTask,
    Arithmetic,
    Copy,
    Facts,
    InContextRecall,
    LongForm,
    QAFiles,
    Text,
    TwoHop,
)
from membench.training.task import TaskData
from membench.training.tasks.arithmetic import ArithmeticData
from membench.training.tasks.bare_facts import BareFacts
from membench.training.tasks.biographies import Biographies
from membench.training.tasks.copied_string import CopyData
from membench.training.tasks.examples import examples
from membench.training.tasks.fact_sentences import FactSentences
from membench.training.tasks.in_context_recall import InContextRecallData
from membench.training.tasks.numbered import NumberedData
from membench.training.tasks.question_answering import QuestionAnswering
from membench.training.tasks.text import TextData
from membench.training.tasks.two_hop import TwoHopData


def task_data(config: AnyTask, seed: int) -> TaskData:
    """The data that a task has for a seed; the task's own ``data_seed`` is added to it.

    Its ``description`` has an example of what is trained and of what is asked, as a person reads them.

    Raises:
        UsageError: a file of the user's cannot be used; it names the file, the line and the column.
    """
    found = _made(config, seed + config.data_seed)
    found.description |= examples(found)
    return found


def _made(config: AnyTask, seed: int) -> NumberedData:
    match config:
        case Facts(form="bare"):
            return BareFacts(config, seed)
        case Facts():
            return FactSentences(config, seed)
        case TwoHop():
            return TwoHopData(config, seed)
        case Arithmetic():
            return ArithmeticData(config, seed)
        case InContextRecall():
            return InContextRecallData(config, seed)
        case Copy():
            return CopyData(config, seed)
        case LongForm():
            return Biographies(config, seed)
        case Text():
            return TextData(config, seed)
        case QAFiles():
            return QuestionAnswering(config, seed)
