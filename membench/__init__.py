"""membench: benchmarks and profiles memory layers against dense FFN and mixture-of-experts layers.

``membench.read_results("results/*.json")`` gives result files as a pandas frame. pandas is imported only then.
"""

# As in typing, which is not imported: of ``python -m membench`` this file is the first, and the working folder, which
# may hold a user's typing.py, is still searched before everything else.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from membench.results.frame import read_results

__all__ = ["__version__", "read_results"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "read_results":
        from membench.results.frame import read_results

        return read_results
    raise AttributeError(f"module 'membench' has no attribute {name!r}")
