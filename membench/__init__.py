"""membench: benchmarks and profiles memory layers against dense FFN and mixture-of-experts layers."""

__version__ = "0.1.0"
