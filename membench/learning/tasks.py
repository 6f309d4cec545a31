"""Tasks that models are trained on: each a config that says what is to be learnt, and how much of it there is.

A task's data is made from its config and a seed, or read from the user's files. ``membench.training.tasks`` makes it.
"""

from pathlib import PurePath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, model_validator

from membench.errors import shown_path

MAX_FACTS = 2**26
TOKENS_SUFFIX = ".bin"
TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet", TOKENS_SUFFIX)
QA_SUFFIXES = (".json", ".jsonl")


class Task(BaseModel):
    """What all tasks have. ``kind`` is the task's name in a scenario."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    kind: str
    data_seed: int = Field(
        default=0, ge=0, le=2**31 - 1, description="added to the run's seed: what is to be learnt is drawn from both"
    )


class Facts(Task):
    """Closed-book facts: a name and its value, which nothing but storage tells (after arXiv 2404.05405).

    ``bare``: name tokens, then value tokens, with the loss on the value: for bits stored. ``sentences``: in many
    phrasings, asked in phrasings that training does not have: for recall as arXiv 2412.09764 means it. ``value_pool``
    is the dial of entropy: count, tokens, steps and exposures stay while the bits of a value token are log2 of it.
    """

    kind: Literal["facts"] = "facts"
    form: Literal["bare", "sentences"] = Field(default="bare", description="bare: tokens of names and values only")
    facts: PositiveInt = Field(default=24_000, le=MAX_FACTS, description="how many there are")
    name_tokens: PositiveInt = Field(default=3, le=16, description="of a name")
    name_symbols: PositiveInt = Field(default=64, le=2**16, description="that a token of a name is one of")
    value_tokens: PositiveInt = Field(default=2, le=16, description="of a value")
    value_symbols: PositiveInt = Field(
        default=256, le=2**16, description="of the vocabulary, for each token of a value"
    )
    value_pool: PositiveInt = Field(default=256, description="of these symbols, how many values are drawn from")
    zipf_exponent: NonNegativeFloat = Field(
        default=0.0, le=4.0, description="of how often a fact is shown; 0: all alike, each once an epoch"
    )
    attributes: PositiveInt = Field(default=1, le=16, description="that a name has a value of; form sentences")
    phrasings: PositiveInt = Field(default=8, le=64, description="of a sentence in training; form sentences")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.value_pool > self.value_symbols:
            raise ValueError(f"value_pool {self.value_pool} should be at most value_symbols {self.value_symbols}")
        if self.form == "bare" and self.attributes != 1:
            raise ValueError(f"attributes {self.attributes} should be 1 in form bare; form sentences has several")
        most = self.name_symbols**self.name_tokens * self.attributes
        if self.facts > most:
            raise ValueError(f"facts {self.facts} should be at most {most}: as many as names, and attributes of each")
        return self


class TwoHop(Task):
    """Two stored facts composed: a's b is c, c's d is e, and asked is a's b's d (arXiv 2502.03490)."""

    kind: Literal["two_hop"] = "two_hop"
    entities: PositiveInt = Field(default=2_000, ge=8, le=2**22, description="that facts tie to each other")
    relations: PositiveInt = Field(default=4, le=256, description="of an entity, each to another entity")
    taught_share: float = Field(
        default=0.5, gt=0, lt=1, description="of two-hop questions, in training; the rest are asked"
    )


class Arithmetic(Task):
    """a + b = c, digits written in order, asked of pairs that training does not have: nothing to be stored."""

    kind: Literal["arithmetic"] = "arithmetic"
    digits: PositiveInt = Field(default=3, le=9, description="of a and b")
    asked_share: float = Field(default=0.1, gt=0, lt=1, description="of pairs kept from training")


class InContextRecall(Task):
    """Multi-query associative recall (arXiv 2312.04927): pairs are in the prompt, so attention alone solves it."""

    kind: Literal["in_context_recall"] = "in_context_recall"
    symbols: PositiveInt = Field(default=512, ge=16, le=2**16, description="half of them keys, half values")
    length: PositiveInt = Field(default=64, ge=8, le=2**14, description="tokens of a sequence")
    pairs: PositiveInt = Field(default=4, le=2**10, description="of key and value in a sequence")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if 4 * self.pairs > self.length:
            raise ValueError(f"length {self.length} should be at least four times pairs {self.pairs}")
        if 2 * self.pairs > self.symbols:
            raise ValueError(f"symbols {self.symbols} should be at least twice pairs {self.pairs}")
        return self


class Copy(Task):
    """A random string, a mark, the string again."""

    kind: Literal["copy"] = "copy"
    symbols: PositiveInt = Field(default=64, ge=2, le=2**16, description="of the string")
    length: PositiveInt = Field(default=16, le=2**12, description="of the string")


class LongForm(Task):
    """Whole biographies: all attributes of a name in one text; asked is the share that is right over its length."""

    kind: Literal["long_form"] = "long_form"
    names: PositiveInt = Field(default=2_000, le=2**22, description="of people")
    attributes: PositiveInt = Field(default=8, le=64, description="of each")
    name_tokens: PositiveInt = Field(default=3, le=16, description="of a name")
    name_symbols: PositiveInt = Field(default=64, le=2**16, description="that a token of a name is one of")
    value_pool: PositiveInt = Field(default=256, le=2**16, description="values of an attribute")
    phrasings: PositiveInt = Field(default=8, le=64, description="of each sentence")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.names > self.name_symbols**self.name_tokens:
            most = self.name_symbols**self.name_tokens
            raise ValueError(f"names {self.names} should be at most {most}: as many as name_tokens can tell apart")
        return self


class Text(Task):
    """The next token of plain text, of files of the user's or of the English text that every CPython ships."""

    kind: Literal["text"] = "text"
    files: tuple[str, ...] = Field(
        default=(), description=".txt, .jsonl, .parquet or .bin (tokens); none: pydoc_data.topics of Python"
    )
    column: str = Field(default="text", description="of JSONL and Parquet files")
    bin_dtype: Literal["uint16", "uint32"] = Field(default="uint16", description="of tokens in .bin files")
    vocab_size: PositiveInt | None = Field(
        default=None, le=2**32, description="of .bin files, where no tokenizer says it"
    )
    tokenizer: str | None = Field(default=None, description="a tokenizer.json of Hugging Face; none: bytes")
    length: PositiveInt = Field(default=128, le=2**20, description="tokens of a sequence")
    asked_share: float = Field(default=0.1, gt=0, lt=1, description="of the text, from its end, kept from training")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for file in self.files:
            if PurePath(file).suffix not in TEXT_SUFFIXES:
                raise ValueError(f"files: {shown_path(file)} should end in {' or '.join(TEXT_SUFFIXES)}")
        if len({file.endswith(TOKENS_SUFFIX) for file in self.files}) > 1:
            raise ValueError(f"files should all be {TOKENS_SUFFIX}, of tokens, or all be text")
        if self.of_tokens and self.tokenizer is None and self.vocab_size is None:
            raise ValueError(f"vocab_size is missing: nothing says which tokens files in {TOKENS_SUFFIX} may have")
        if self.vocab_size is not None and (self.tokenizer is not None or not self.of_tokens):
            raise ValueError(f"vocab_size is for files in {TOKENS_SUFFIX} without a tokenizer; else it is known")
        return self

    @property
    def of_tokens(self) -> bool:
        """Whether the files hold tokens, and not text."""
        return any(file.endswith(TOKENS_SUFFIX) for file in self.files)


class QAFiles(Task):
    """Questions and answers of the user's files (TriviaQA, Natural Questions and alike), scored by TriviaQA's rules."""

    kind: Literal["qa_files"] = "qa_files"
    train: tuple[str, ...] = Field(min_length=1, description="JSON or JSONL files of questions and answers")
    asked: tuple[str, ...] = Field(default=(), description="the same, asked and not trained; none: what was trained")
    tokenizer: str | None = Field(default=None, description="a tokenizer.json of Hugging Face; none: bytes")
    length: PositiveInt = Field(
        default=128, ge=4, le=2**16, description="tokens of question and answer together, a mark after each"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for file in (*self.train, *self.asked):
            if PurePath(file).suffix not in QA_SUFFIXES:
                raise ValueError(f"{shown_path(file)} should end in {' or '.join(QA_SUFFIXES)}")
        return self


AnyTask = Annotated[
    Facts | TwoHop | Arithmetic | InContextRecall | Copy | LongForm | Text | QAFiles, Field(discriminator="kind")
]
TASKS: dict[str, type[Task]] = {
    "facts": Facts,
    "two_hop": TwoHop,
    "arithmetic": Arithmetic,
    "in_context_recall": InContextRecall,
    "copy": Copy,
    "long_form": LongForm,
    "text": Text,
    "qa_files": QAFiles,
}
