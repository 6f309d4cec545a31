"""A process of ours that misbehaves in the ways that layers and libraries do; no torch."""

import os
import sys
import time
from importlib.util import find_spec

from membench.processes.channel import Message
from membench.processes.serving import Server


class Do(Message):
    what: str
    padding: str = ""


class Did(Message):
    found: dict


def do(asked):
    print("no message: {}")
    print('{"message": "Did", "found": {"lie": 1}}', flush=True)
    match asked.what:
        case "print":
            os.write(1, b"half a line")
            os.write(2, b'{"message": "Did", "found": {}}\n')
        case "close":
            for descriptor in (0, 1, 2):
                os.close(descriptor)
        case "raise":
            raise ValueError("asked for it\nand more")
        case "answer with no number":
            return Did(found={"loss": float("nan")})
        case "cuda":
            raise RuntimeError("CUDA error: device-side assert triggered")
        case "die":
            sys.exit(0)
        case "die and leave a child":
            if os.fork() == 0:
                time.sleep(60)
            os._exit(3)
        case "close every descriptor":  # as what becomes a daemon does
            os.closerange(3, 1024)
            time.sleep(60)
        case "die of a real-time signal":
            os.kill(os.getpid(), 40)
        case "hang":
            time.sleep(60)
        case "origins":
            names = ("membench", "layers", "torch", "random", "membench.layers", "mine_only", "typer")
            specs = {name: find_spec(name) for name in names}
            return Did(found={name: spec and spec.origin for name, spec in specs.items()})
    return Did(found={"stdin": os.fstat(0).st_rdev if asked.what != "close" else None})


if __name__ == "__main__":
    sys.exit(Server().serve({Do: do}))
