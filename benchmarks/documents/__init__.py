"""The parts of documents that are made from result files, or from the models that read scenarios.

``python -m benchmarks.documents`` rewrites them.
"""
