"""How measured numbers are shown: three digits, unknown as a dash."""

from membench.layers.spec.quantities import format_quantity
from membench.metrics import FLAG_ABOVE


def short(value: float | None) -> str:
    """Three significant digits, whole above a thousand."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def three(value: float | None) -> str:
    """The same with its zeros, so that a column of them lines up."""
    return "-" if value is None else f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:.0f}"


def giga(value: float | None) -> str:
    """Billions (decimal), to three digits."""
    return short(value if value is None else value / 1e9)


def four(value: float | None) -> str:
    """Four digits with a decimal suffix: budgets differ by less than a percent."""
    return format_quantity(value, digits=4)


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
