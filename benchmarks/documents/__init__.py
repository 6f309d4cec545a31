"""The parts of documents that are made from result files: ``python -m benchmarks.documents`` rewrites them."""
