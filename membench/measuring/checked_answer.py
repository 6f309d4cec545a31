"""What an earlier round of the same run found of a case's answer."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """A bit-equal answer need not be compared with the reference again.

    ``digest`` is the answer's, ``reference`` what the comparison found, as a record keeps it; None: there is none.
    ``of_ranks``: the digest of each rank, where several share the layer.
    """

    round: int
    implementation: str
    digest: str
    reference: dict[str, Any] | None
    of_ranks: tuple[str, ...] = ()

    def of_rank(self, rank: int) -> str:
        """The digest of one rank's answer."""
        return self.of_ranks[rank] if self.of_ranks else self.digest
