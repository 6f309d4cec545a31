"""``membench list``: what can be run and compared."""

from membench.cli.options import AsJson


def list_command(as_json: AsJson = False) -> None:
    """List the scenarios that membench ships, with their questions; the kinds of layer; and the operators.

    Exit code: 0.
    """
    from membench.layers.spec import KINDS, OPERATORS
    from membench.results.records import strict_json
    from membench.scenario.arms import entry_point_layers
    from membench.scenario.shipped import list_scenarios
    from membench.tables.render import print_tables
    from membench.tables.table import Column, Table

    scenarios = list_scenarios()
    kinds, operators = (
        {name: (spec.__doc__ or "").splitlines()[0] for name, spec in known.items()} for known in (KINDS, OPERATORS)
    )
    plugins = entry_point_layers()
    if as_json:
        content = {
            "scenarios": [{"name": name, "question": question} for name, question in scenarios],
            "layers": [{"kind": name, "summary": summary} for name, summary in kinds.items()],
            "operators": [{"kind": name, "summary": summary} for name, summary in operators.items()],
            "layers_from_outside": [{"name": name, "factory": factory} for name, factory in plugins.items()],
        }
        print(strict_json(content))
        return
    left = [Column("scenario", right=False), Column("question", right=False)]
    layers = [[name, summary] for name, summary in kinds.items()]
    layers += [[name, f"from outside: {factory}"] for name, factory in plugins.items()]
    print_tables(
        [
            Table("Scenarios: membench run NAME", "", left, [list(row) for row in scenarios]),
            Table("Layers", "", [Column("layer", right=False), Column("what it is", right=False)], layers),
            Table(
                "Operators: scenarios of level op",
                "",
                [Column("op", right=False), Column("what it computes", right=False)],
                [list(row) for row in operators.items()],
            ),
        ]
    )
