"""``membench schema``: the JSON Schema of a result file."""

from typing import Annotated

import typer


def schema(
    as_json: Annotated[bool, typer.Option("--json", help="No effect: a schema is always JSON.")] = False,
) -> None:
    """Print the JSON Schema of a result file.

    Exit code: 0.
    """
    del as_json
    from membench.results.records import result_schema, strict_json

    print(strict_json(result_schema()))
