"""Which face these layers show to an instrument: what it may call, by which names, and where they lie.

Raised whenever the instrument asks layers for something that earlier ones lack. ``membench ab`` measures both
revisions with one instrument where their layers have its face, and each with its own where they do not.
"""

FACE = 12
