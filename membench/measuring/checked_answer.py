"""What an earlier round of the same run found of a case's answer."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """A bit-equal answer need not be compared with the reference again.

    ``digest`` is the answer's, ``reference`` what the comparison found, as a record keeps it; None: there is none.
    """

    round: int
    implementation: str
    digest: str
    reference: dict[str, Any] | None
