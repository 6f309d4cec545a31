"""Stands as ``membench.layers`` beside a revision whose own files import each other as ``layers.…``.

The harness imports ``membench.layers``, and has to get the revision's modules, not a second copy of them.
"""

from membench.layers.short_name import LONG, SHORT, alias

if __name__ == LONG:
    alias(LONG, SHORT)
