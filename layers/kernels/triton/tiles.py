"""How much of the rows a program holds: enough loads in flight to keep a GPU's memory busy, in few registers.

By Little's law, bandwidth times latency bytes must be in flight: about 20 to 30 KiB for each multiprocessor of a
Hopper. A thread loads 16 bytes at a time, and 16 or 32 elements before it needs the first. It loads no more, so that
registers remain for 700 to 1000 threads per multiprocessor.

Letters: R rows of a program, C columns.
"""

from typing import NamedTuple

_WARP_BYTES = 512  # 32 threads, 16 bytes each
_MOST_WARPS = 16
_MOST_COLUMNS = 1024  # so many of 16K tokens in bf16 stay in an L2 of 50 MB, however many there are


class Tile(NamedTuple):
    """R rows of C columns, both powers of two, for so many warps."""

    rows: int
    columns: int
    warps: int

    @property
    def constants(self) -> dict[str, int]:
        """The tile as arguments of a kernel."""
        return {"ROWS": self.rows, "TILE": self.columns, "num_warps": self.warps}

    def parts(self, columns: int) -> int:
        """How many tiles side by side cover so many columns."""
        return ceil_div(columns, self.columns)


def of_bags(columns: int, itemsize: int, lookups: int, *, few: bool) -> Tile:
    """For sums over rows. With ``few`` bags, a program takes more rows at the same time, and fewer columns."""
    width = min(_power_of_two(columns), (256 if few else 4 * _WARP_BYTES) // itemsize)
    warps = 4 if few else max(1, width * itemsize // _WARP_BYTES)
    rows = 4 * warps * _WARP_BYTES // (width * itemsize)
    return Tile(min(rows, 32, _power_of_two(lookups)), width, warps)


def of_dots(columns: int, itemsize: int) -> Tile:
    """Of products with one token: a row lies in one warp, whose threads add up without waiting for others."""
    width = min(_power_of_two(columns), _WARP_BYTES // itemsize)
    return Tile(min(4 * _WARP_BYTES // (width * itemsize), 16), width, 1)


def of_runs(columns: int, *, whole: bool) -> Tile:
    """Of runs side by side, 16 elements a thread; ``whole`` rows where an update needs all of one."""
    width = _power_of_two(columns) if whole else min(_power_of_two(columns), _MOST_COLUMNS)
    rows = max(1, min(2048 // width, 8))
    return Tile(rows, width, max(1, min(rows * width // 512, _MOST_WARPS)))


def of_pieces(runs: Tile) -> Tile:
    """Of lookups of one run, with the columns that ``of_runs`` gives its tile: 32 elements a thread."""
    warps = max(1, min(runs.columns // 256, _MOST_WARPS))
    return Tile(max(1, min(1024 * warps // runs.columns, 16)), runs.columns, warps)


def ceil_div(total: int, part: int) -> int:
    """Parts that make up a total, the last perhaps less than whole."""
    return -(-total // part)


def _power_of_two(least: int) -> int:
    """The power of two next to ``least``, not below it."""
    return 1 << max(0, least - 1).bit_length()
