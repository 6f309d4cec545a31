"""Where tests run Triton's kernels: compiled on a GPU, where there is one, else interpreted on the CPU.

Import this before anything that imports Triton, which decides on its import. What the interpreter cannot
show, that the compiler takes a kernel, ``compiled_for_hopper`` does: it needs no GPU.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")
import triton.language as tl  # noqa: E402
from triton.runtime.interpreter import InterpretedFunction  # noqa: E402

if DEVICE == "cpu" and not isinstance(tl.sum, InterpretedFunction):
    raise RuntimeError("something imported triton before TRITON_INTERPRET was set; set it in tests/conftest.py")

_COMPILE_ONLY = """
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

class Hopper:
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_current_target(self): return GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Hopper())
_run = JITFunction.run

def compile_only(self, *arguments, grid, warmup, **options):
    kernel = _run(self, *arguments, grid=grid, warmup=True, **options)
    assert kernel.asm["cubin"], self.fn.__name__
    print(self.fn.__name__ + "-" + kernel.hash)

JITFunction.run = compile_only
"""


def compiled_for_hopper(calls: str) -> list[str]:
    """Names, with hashes, of the kernels that Python ``calls`` would launch on a Hopper GPU; all have compiled.

    The calls run in a process of their own, on tensors of the CPU, and leave results without meaning.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", _COMPILE_ONLY + calls]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent.parent, timeout=250
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
