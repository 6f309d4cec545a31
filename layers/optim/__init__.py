"""Optimizers that touch only the rows that were read."""
