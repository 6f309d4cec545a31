"""What one launch has to do, whatever the device: the bytes that it moves, its FLOPs, and how a program waits."""

from dataclasses import dataclass

from membench.layers.spec.accounting import dram_row_bytes


@dataclass(frozen=True, slots=True)
class Gather:
    """Rows that are read one by one: so many reads of so many distinct rows."""

    reads: float
    distinct: float
    row_bytes: float


@dataclass(frozen=True, slots=True)
class Work:
    """Of one launch.

    Attributes:
        streamed_bytes: read or written once, in order or as whole rows.
        gathers: what is read at random addresses, each of its rows perhaps often.
        flops: multiply-adds are two.
        rate: of a datasheet's, by which they are done: those of a product's dtype, of all else float32's.
        trips: how often in its life a program waits for memory, one wait after the other; a wait for the L2 cache is
            ``L2_TRIP`` of one.
        turns: how often a program runs its main loop.
        live: the share of programs that have more to do than to find that they have nothing; ``trips`` are of all.
        kernels: that an operator of torch launches for it, one after the other.
    """

    streamed_bytes: float
    gathers: tuple[Gather, ...] = ()
    flops: float = 0.0
    rate: str = "float32"
    trips: float = 1.0
    turns: float = 1.0
    live: float = 1.0
    kernels: int = 1

    @property
    def moved_bytes(self) -> float:
        """All that is asked for, every read of a row counted."""
        return self.streamed_bytes + sum(each.reads * each.row_bytes for each in self.gathers)

    def dram_bytes(self, cache_bytes: float) -> float:
        """Those that a last-level cache of this size cannot be expected to serve.

        What an earlier launch left in the cache is not counted on.
        """
        gathered = (dram_row_bytes(each.reads, each.distinct, each.row_bytes, cache_bytes) for each in self.gathers)
        return self.streamed_bytes + sum(gathered)


L2_TRIP = 0.3
"""Of a trip to memory, how long one to the L2 cache takes (on a Hopper some 0.3 of 1 us under load; assumed)."""


class Uncounted(Exception):
    """Of this launch nobody has said what it moves."""
