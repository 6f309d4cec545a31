"""Processes of our own: what they are started with, where they find code, and how they are spoken to."""
