"""How measured numbers are shown: three digits, unknown as a dash."""

from collections.abc import Callable

from membench.layers.spec.quantities import format_quantity
from membench.results.metrics import FLAG_ABOVE


def short(value: float | None) -> str:
    """Three significant digits, whole above a thousand."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def three(value: float | None) -> str:
    """The same with its zeros, so that a column of them lines up."""
    return "-" if value is None else f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:.0f}"


def giga(value: float | None) -> str:
    """Billions (decimal), to three digits."""
    return short(value if value is None else value / 1e9)


def bytes_shown(value: float | None, digits: int = 3) -> str:
    """Bytes with a decimal unit, as in ``1.23 GB``; the suffixes of ``format_quantity`` would make them billions."""
    if value is None:
        return "-"
    text = format_quantity(value, digits).replace("B", "G").replace("K", "k")
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def budget(name: str) -> Callable[[float | None], str]:
    """How a budget's amount is shown, to four digits, for budgets differ by less than a percent."""
    if name.endswith("_bytes"):
        return lambda value: bytes_shown(value, digits=4)
    if name == "latency_ms":
        return lambda value: "-" if value is None else f"{value:.4g}"
    return lambda value: format_quantity(value, digits=4)


def signed(value: float | None) -> str:
    """A difference in percent."""
    return "-" if value is None else f"{value:+.2f}"


def ratio(value: float | None) -> str:
    """A multiple, as in 1.23x."""
    return "-" if value is None else f"{value:.2f}x"


def percent(value: float | None) -> str:
    """A utilization; one that cannot be true is marked, and the notes say why."""
    if value is None:
        return "-"
    return f"({100 * value:.0f} %?)" if value > FLAG_ABOVE else f"{100 * value:.0f} %"


def share(value: float | None) -> str:
    """A part of a whole, in percent to a tenth."""
    return "-" if value is None else f"{100 * value:.1f} %"


def error(value: float | None) -> str:
    """A relative error."""
    return "-" if value is None else f"{value:.1e}"


def interval(value: tuple[float | None, float | None] | None) -> str:
    """From where to where a number lies."""
    low, high = value or (None, None)
    return "-" if low is None or high is None else f"{three(low)} – {three(high)}"


def shares(value: tuple[float | None, float | None] | None) -> str:
    """From where to where a share lies, in percent."""
    low, high = value or (None, None)
    return "-" if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f} %"


def places(value: tuple[int | None, int | None] | None) -> str:
    """The place of an arm, or the first and the last that it may have."""
    low, high = value or (None, None)
    return "-" if low is None or high is None else f"{low}" if low == high else f"{low}–{high}"
