"""Processes of their own: for an environment of their own, and to give their memory back."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from membench.machine.device import available_memory_bytes
from membench.processes.environment import measuring_environment
from membench.processes.serving import be_killed_first, live_no_longer_than
from membench.results.records import Status

Result = TypeVar("Result")

HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}  # torch asks for huge pages for all that it allocates
_OF_MEASURING = ("GLIBC_TUNABLES", *HUGE_PAGES, "OMP_PROC_BIND", "OMP_PLACES", "GOMP_SPINCOUNT")


class ChildDied(RuntimeError):
    """A process ended without its result."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason = reason


def users_environment() -> dict[str, str]:
    """A process as a user starts it: nothing set of what decides how it allocates and how its threads wait."""
    return {name: value for name, value in os.environ.items() if name not in _OF_MEASURING}


class Child:
    """A process that runs ``target(pipe, *arguments)``; a context manager that waits for its end.

    It must not be started by a process whose OpenMP binds threads: it would inherit one core.
    """

    def __init__(self, environment: Mapping[str, str], target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_run, args=(target, there, *arguments), daemon=True)
        with _replaced(environment):
            self._process.start()
        there.close()

    def receive(self) -> Any:
        """What it sends next.

        Raises:
            ChildDied: it ended instead; what it raised is on standard error.
        """
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            status, how = ("oom", "killed, most likely for memory") if code == -9 else ("error", f"exit code {code}")
            raise ChildDied(status, f"its process ended: {how}") from None

    def ask(self, question: Any) -> Any:
        """Send, and receive the answer."""
        self._pipe.send(question)
        return self.receive()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *reason: object) -> None:
        self._pipe.close()  # ends a process that waits for a question
        self._process.join()


def questions(pipe: Connection) -> Iterator[Any]:
    """In a child: what is asked, until nobody asks any more."""
    while True:
        try:
            yield pipe.recv()
        except EOFError:
            return


def call(function: Callable[..., Result], *arguments: Any) -> Result:
    """``function(*arguments)`` in a process of its own, in the environment in which membench measures."""
    with Child(measuring_environment(), _send_result, function, *arguments) as child:
        return child.receive()


def short_of_memory(needed_bytes: float) -> str | None:
    """Why so much memory cannot be had, or None."""
    free = available_memory_bytes()
    if free is None or free >= needed_bytes:
        return None
    return f"needs about {needed_bytes / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"


def _run(target: Callable[..., None], pipe: Connection, *arguments: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    live_no_longer_than(parent.pid)
    be_killed_first()
    target(pipe, *arguments)


def _send_result(pipe: Connection, function: Callable[..., Any], *arguments: Any) -> None:
    pipe.send(function(*arguments))


@contextmanager
def _replaced(environment: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(environment)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
