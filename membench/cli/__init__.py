"""The command line: one file per command. Nothing heavy is imported before a command runs."""

import io
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, cast

import typer

from membench import __version__
from membench.cli import exit_codes
from membench.cli.ab import ab
from membench.cli.baseline import baseline
from membench.cli.compare import compare
from membench.cli.doctor import doctor
from membench.cli.list import list_command
from membench.cli.plan import plan
from membench.cli.profile import profile
from membench.cli.report import report
from membench.cli.run import run
from membench.cli.schema import schema
from membench.cli.standard_output import discard_output
from membench.errors import UsageError
from membench.processes.signals import hear_of_children
from membench.tables.width import drop_odd_sizes

app = typer.Typer(
    name="membench",
    epilog="Exit codes: 0 pass, 1 a regression, 2 bad input, 3 inconclusive (only with --strict), "
    "4 nothing comparable, 5 nothing was measured or membench failed, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"membench {__version__}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
]


@app.callback()
def membench(version: _Version = False) -> None:
    """Compare memory layers with dense FFN and mixture-of-experts layers: exact costs, equal budgets, checked
    results, honest timings.
    """


app.command("run")(run)
app.command("plan")(plan)
app.command("profile")(profile)
app.command("compare")(compare)
app.command("ab")(ab)
app.add_typer(baseline, name="baseline")
app.command("report")(report)
app.command("list")(list_command)
app.command("doctor")(doctor)
app.command("schema")(schema)

_Misused: Any = typer.BadParameter.__bases__[0]  # typer raises it for an unknown option or command too


def main() -> None:
    """Entry point. Bad input gives one line on standard error and exit code 2, never a traceback."""
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # None if it is closed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    drop_odd_sizes()
    hear_of_children()
    sys.stderr = cast(TextIO, _Messages(sys.stderr))
    try:
        sys.exit(_run(*(sys.argv[1:] or ["--help"])))
    except UsageError as error:
        _leave(str(error), exit_codes.USAGE)
    except _Misused as error:
        command = error.ctx.command_path if error.ctx else "membench"
        _leave(f"{' '.join(error.format_message().split())} ({command} --help says more)", exit_codes.USAGE)
    except KeyboardInterrupt:
        _leave("interrupted", exit_codes.INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has closed it
        discard_output()
        sys.exit(0)
    except OSError as error:
        discard_output()
        _leave(str(error), exit_codes.HARNESS)
    except Exception as error:  # a traceback would end with exit code 1, which means that something got slower
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        _leave(f"a bug in membench, at {where}: {type(error).__name__}: {error}", exit_codes.HARNESS)


def _run(*words: str) -> int:
    """Runs a command and returns its exit code. Writes out what it printed, or raises an OSError that says why not."""
    code = 0
    try:
        with typer.main.get_command(app).make_context("membench", [*words]) as context:
            context.command.invoke(context)
    except typer.Exit as ended:
        code = ended.exit_code
    except SystemExit:  # raised by rich if the reader of a page of help has closed the pipe
        raise BrokenPipeError from None
    sys.stdout.flush()
    return code


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - it stays open as long as the process lives


class _Messages:
    """Standard error. If it cannot be written (a full disk, a closed pipe), measuring goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _leave(line: str, code: int) -> NoReturn:
    with suppress(OSError):
        print(f"membench: {line}", file=sys.stderr, flush=True)
    sys.exit(code)
