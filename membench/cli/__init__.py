"""The command line: one file a command. Nothing heavy is imported before a command runs."""

import os
import sys

import typer

from membench.cli.doctor import doctor
from membench.cli.list import list_command
from membench.cli.plan import plan
from membench.cli.run import run
from membench.cli.schema import schema
from membench.errors import UsageError

EXIT_USAGE = 2
EXIT_HARNESS = 5
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="membench",
    help="Memory layers against dense FFN and mixture-of-experts layers: exact costs, equal budgets, "
    "checked results, honest timings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run)
app.command("plan")(plan)
app.command("list")(list_command)
app.command("doctor")(doctor)
app.command("schema")(schema)


def main() -> None:
    """Entry point. Bad input is one line on standard error and exit code 2, never a traceback."""
    try:
        app()
    except UsageError as error:
        print(f"membench: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        print("membench: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
