"""Counts in sentences: ``1 round``, ``2 rounds``."""


def how_many(count: float, thing: str) -> str:
    """A count and what is counted, in the plural but for one."""
    return f"{count:g} {thing}" if count == 1 else f"{count} {thing}s"
