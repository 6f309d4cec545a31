"""What each operator of this project does, by its name: for who follows it call by call where it cannot run."""

from collections.abc import Callable
from typing import Any

_bodies: dict[str, Callable[..., Any]] = {}


def note_body(name: str, function: Callable[..., Any]) -> None:
    """Of the operator ``membench::<name>``."""
    _bodies[name] = function


def body_of(name: str) -> Callable[..., Any]:
    """The function that was declared to be ``membench::<name>``.

    Raises:
        KeyError: no operator has that name.
    """
    return _bodies[name]
