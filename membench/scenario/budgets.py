"""What an arm is budgeted: a quantity, or as much as another arm has."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

from membench.layers.spec import Mode
from membench.layers.spec.quantities import parse_quantity

BudgetName = Literal["flops_per_token", "params", "stored_bytes", "moved_bytes", "latency_ms"]

_BYTES = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:([KMGT])(i?)B?|)\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class Strict(BaseModel):
    """A part of a scenario: frozen, unknown keys refused, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def parse_bytes(value: object) -> float:
    """A number of bytes: ``18GB`` (10^9), ``18GiB`` (2^30), or a plain number.

    Raises:
        ValueError: it is none, or not above zero.
    """
    if isinstance(value, str):
        match = _BYTES.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is no number of bytes: write 18GB (10^9) or 18GiB (2^30)")
        base = 1024 if match.group(3) else 1000
        number = float(match.group(1)) * base ** _POWERS[(match.group(2) or "").upper()]
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is no number of bytes: write 18GB (10^9) or 18GiB (2^30)")
    else:
        number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{value!r} bytes: should be above zero and finite")
    return number


def _positive_quantity(value: object) -> float:
    number = parse_quantity(value)
    if number <= 0:
        raise ValueError(f"{value!r} should be above zero")
    return number


def _amount_of(value: Any, parse: Any) -> float | str:
    """A number as ``parse`` reads it, or an arm's name as it is (arm names start with a letter)."""
    return value if isinstance(value, str) and value[:1].isalpha() else parse(value)


Amount = Annotated[float | str, BeforeValidator(lambda value: _amount_of(value, _positive_quantity))]
ByteAmount = Annotated[float | str, BeforeValidator(lambda value: _amount_of(value, parse_bytes))]


class MovedBytes(Strict):
    """``bytes_min`` of a forward pass over so many tokens."""

    value: ByteAmount = Field(description="bytes")
    tokens: PositiveInt = Field(le=2**24, description="of the forward pass")


class Latency(Strict):
    """A latency to be matched by interpolating between measured cases."""

    value: float = Field(gt=0, description="milliseconds")
    measured: list[str] = Field(min_length=1, description="result files")
    mode: Mode = Field(default="forward", description="of the measured cases")
    tokens: PositiveInt | None = Field(default=None, description="the workload's if left out")


class Budgets(Strict):
    """The budgets of an arm; all of them are met, or it is an error that says what would do."""

    flops_per_token: Amount | None = Field(default=None, description="FLOPs of a forward pass, a token")
    params: Amount | None = Field(default=None, description="parameters, all ranks together")
    stored_bytes: ByteAmount | None = Field(default=None, description="bytes of the weights")
    moved_bytes: MovedBytes | None = Field(default=None, description="bytes_min of a forward pass")
    latency_ms: Latency | None = Field(default=None, description="a latency, between measured cases; level layer")

    @model_validator(mode="before")
    @classmethod
    def _refuse_null(cls, values: Any) -> Any:
        """A key without a value is a slip of the pen, not a budget left out."""
        for name, value in values.items() if isinstance(values, dict) else ():
            if value is None:
                raise ValueError(f"{name} has no value: write a quantity such as 352.3M or an arm's name")
        return values

    def amounts(self) -> dict[BudgetName, float | str]:
        """The stated budgets but latency: a number, or the name of the arm to equal."""
        stated: dict[BudgetName, float | str | None] = {
            "flops_per_token": self.flops_per_token,
            "params": self.params,
            "stored_bytes": self.stored_bytes,
            "moved_bytes": self.moved_bytes.value if self.moved_bytes else None,
        }
        return {name: amount for name, amount in stated.items() if amount is not None}

    def without_arm(self, arm: str) -> "Budgets":
        """These budgets less those that equal ``arm``: an arm's own size is no budget for it."""
        own = {name: None for name, amount in self.amounts().items() if amount == arm}
        return self.model_copy(update=own)
