"""torchrun's agent, ended where it cannot end by itself: the store that it asks lies on a host that is cut off.

An agent asks the store of its rendezvous ten times a second whether hosts have come. Where that cannot be reached any
more, torch (2.13) waits for an answer to its last question without a limit, until TCP gives up, a quarter of an hour
later; meanwhile it neither sees that its ranks have ended nor handles a signal. So a rank that ends because the run
went wrong leaves a process that ends its agent, once that has done nothing at all for a while. This file is that
process's, run by its path: it imports nothing of membench.
"""

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

QUIET_SECONDS = 10.0  # an agent that hears its store does something every tenth of a second, until it has ended
_LOOK_SECONDS = 0.5
_AGENTS = ("torchrun", "torch.distributed.run", "torch.distributed.launch")


def end_if_stuck(name: str, quiet_seconds: float = QUIET_SECONDS) -> bool:
    """Have the agent that started this process ended, if it does nothing for so many seconds from now on.

    ``name``: what this process is called in the line that says so, on standard error. Whether there is such an agent;
    anybody else who has started it (a shell, SLURM's srun) is left alone, and all are where the system is no Linux.
    """
    parent = os.getppid()
    if "TORCHELASTIC_RUN_ID" not in os.environ or not _is_agent(parent) or not hasattr(os, "pidfd_open"):
        return False
    with suppress(OSError):  # it has just ended
        agent = os.pidfd_open(parent)
        try:
            if os.getppid() != parent:
                return False
            subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(agent), str(parent), str(quiet_seconds), name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[agent],
                cwd="/",
                start_new_session=True,  # an agent ends what is of its ranks' sessions
            )
        finally:
            os.close(agent)
        return True
    return False


def _is_agent(process: int) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return any(Path(word).name in _AGENTS for word in words)


def _turns(process: int) -> int:
    """How often its main thread has been given a core: no more while it waits."""
    status = Path(f"/proc/{process}/task/{process}/status").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)


def main() -> None:
    """``launcher.py DESCRIPTOR NUMBER SECONDS NAME``; by the descriptor it is the agent, whoever has its number."""
    agent, number, seconds, name = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    turns, quiet_since = -1, time.monotonic()
    while not select.select([agent], [], [], _LOOK_SECONDS)[0]:
        with suppress(OSError):  # it has just ended
            before, turns = turns, _turns(number)
            if turns != before:
                quiet_since = time.monotonic()
        if time.monotonic() - quiet_since >= seconds:
            line = f"membench: {name}: torchrun ({number}) waits for a host that cannot be reached, and was ended"
            with suppress(OSError):
                print(line, file=sys.stderr, flush=True)
            with suppress(OSError):
                signal.pidfd_send_signal(agent, signal.SIGKILL)
            return


if __name__ == "__main__":
    main()
