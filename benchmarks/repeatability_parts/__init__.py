"""Parts of ``benchmarks.repeatability``: making runs, and judging them."""
