"""What a layer's step would launch on a Hopper that need not be there: a JSON line for each kind and mode.

    python -m membench.profiler.launches                 # memory, memory_plus, peer, moe and dense
    python -m membench.profiler.launches memory --each   # and a line for each launch, in order

Sizes are of one layer of d 1024 in bf16 at 16,384 tokens: 1M rows, four heads of 32 rows (PEER: eight of 16), 64
experts of 512 of which a token has eight, and a dense FFN of 4096.
"""

import argparse
import json
from dataclasses import asdict

from membench.profiler.launches.steps import KINDS, MODES, step_launches


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; all if left out")
    parser.add_argument("--each", action="store_true", help="every launch too")
    asked = parser.parse_args()
    for kind in asked.kinds:
        if kind not in KINDS:
            parser.error(f"{kind}: should be one of {', '.join(KINDS)}")
    for kind in asked.kinds or KINDS:
        for mode in MODES:
            found = step_launches(kind, mode)
            moved_bytes, flops = (sum(each.work.moved_bytes for each in found), sum(each.work.flops for each in found))
            told = {"launches": len(found), "moved_bytes": moved_bytes, "flops": flops}
            print(json.dumps({"kind": kind, "mode": mode, **told}), flush=True)
            for launched in found if asked.each else ():
                moved = {"moved_bytes": launched.work.moved_bytes}
                print(json.dumps({**asdict(launched), **moved}), flush=True)


if __name__ == "__main__":
    main()
