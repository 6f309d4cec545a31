"""The operators by Triton kernels: on CUDA, and under ``TRITON_INTERPRET=1`` on any tensor, for tests.

Imported only where one of them runs: importing Triton takes time, and it is not installed everywhere.
"""
