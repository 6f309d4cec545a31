"""iso_flop_8b with one arm of each kind, at 1,024 and 16,384 tokens: writes the scenario's file, then runs membench.

python -m benchmarks.gpu.one_of_each FILE WORD…       runs `membench WORD…`
"""

import os
import sys
from pathlib import Path

import yaml

from benchmarks.gpu.wheels import ROOT

_ARMS = ("dense", "memory_companion", "memory_plus_companion", "moe_top8", "peer_companion")


def write(path: Path) -> None:
    """Writes the scenario.

    Raises:
        KeyError: iso_flop_8b has no such arm.
        OSError: the file cannot be written.
    """
    scenario = yaml.safe_load((ROOT / "scenarios/iso_flop_8b.yaml").read_text())
    scenario["arms"] = {arm: scenario["arms"][arm] for arm in _ARMS}
    scenario["fit"]["memory"] = "64GB"  # 16,384 tokens need more than a laptop has
    del scenario["workload"]["tokens"]
    scenario["axes"] = {"workload.tokens": [1024, 16384]}
    path.write_text(yaml.safe_dump(scenario, sort_keys=False))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, "-m", "membench", *sys.argv[2:]])
