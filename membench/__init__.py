"""membench: benchmarks and profiles memory layers against dense FFN and mixture-of-experts layers.

``membench.read_results("results/*.json")`` gives result files as a pandas frame. pandas is imported only then.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from membench.results.frame import read_results

__all__ = ["__version__", "read_results"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "read_results":
        from membench.results.frame import read_results

        return read_results
    raise AttributeError(f"module 'membench' has no attribute {name!r}")
