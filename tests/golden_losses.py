"""The first losses of a small model of each kind, as they were when this was last made.

    python tests/golden_losses.py

makes ``golden_losses.json`` anew, on one thread. To be done where training is changed on purpose, and only then.
"""

import json
from pathlib import Path

import torch
from small_task import MODELS, finished, losses, settings_of

FILE = Path(__file__).parent / "golden_losses.json"
STEPS = 20


def first_losses(kind):
    """The loss of each step: a point after every one."""
    return losses(finished(kind, settings_of(STEPS, evaluations=STEPS)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {kind: [round(loss, 6) for loss in first_losses(kind)] for kind in MODELS}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
