"""What the maker of a processor decides about torch's libraries."""

from functools import cache
from pathlib import Path


@cache
def mkl_is_at_its_best() -> bool:
    """Whether MKL uses all that this processor has: it chooses its code by the vendor's name, and Intel's it knows."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True
