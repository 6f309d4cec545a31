"""Loops of the C++ kernels that ask for vectors get them on a processor with AVX2."""

import re
import shutil
import subprocess

import pytest

from layers.kernels import cpp_build

FOLDER = cpp_build._SOURCES
ASK = "#pragma omp simd"


def is_gnu(compiler):
    return compiler is not None and "Free Software" in subprocess.getoutput(f"{compiler} --version")


def loops_that_ask():
    """File, and lines from the head to the end of a loop: a compiler names one of those."""
    for path in sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")]):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if line.lstrip().startswith(ASK):
                head = lines[number]
                assert head.lstrip().startswith("for ("), (path.name, number)
                depth = len(head) - len(head.lstrip())
                after = (at for at in range(number + 1, len(lines)) if lines[at].strip())
                end = next(at for at in after if len(lines[at]) - len(lines[at].lstrip()) <= depth)
                yield {(path.name, line) for line in range(number + 1, end + 1)}


def that_ask(source):
    """Of a source and all that it includes, the files with loops that ask."""
    found, left = set(), [source]
    while left:
        text = (path := left.pop()).read_text(encoding="utf-8")
        found |= {path} if ASK in text else set()
        left += [FOLDER / name for name in re.findall(r'#include "(.+)"', text)]
    return found


def sources_with_every_loop():
    """Those that ask themselves, and of the others only what includes a header that none of those does."""
    told = set()
    for source in sorted(FOLDER.glob("*.cpp"), key=lambda path: (ASK not in path.read_text(encoding="utf-8"), path)):
        asking = that_ask(source)
        if not asking <= told:
            told |= asking
            yield source


def said_of_loops(processor, source, made):
    """File and line of the loops of which vectors are made, and of those that stay numbers somewhere.

    None if the compiler does not know the processor.
    """
    flags = [flag for flag in cpp_build._FLAGS if not flag.startswith(("-march", "-shared", "-fPIC"))]
    command = ["g++", *flags, f"-march={processor}", "-fopt-info-vec-optimized-missed", "-S", source, "-o", made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "bad value" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return [
        {(name, int(line)) for name, line in re.findall(rf"([^/\n]+):(\d+):\d+: {said}", done.stderr)}
        for said in ("optimized: loop", "missed: couldn't vectorize loop")
    ]


@pytest.mark.slow
@pytest.mark.skipif(not is_gnu(shutil.which("g++")), reason="no GNU compiler")
def test_loops_that_ask_for_vectors_get_them(tmp_path):
    """A condition that could raise a floating-point exception, or a call, is enough that none are made."""
    vectors, numbers = set(), set()
    for source in sources_with_every_loop():
        if (said := said_of_loops("x86-64-v3", source, tmp_path / "code.s")) is None:
            pytest.skip("this compiler is for other processors")
        vectors, numbers = vectors | said[0], numbers | said[1]
    assert len(vectors) > 20
    assert not [sorted(loop) for loop in loops_that_ask() if loop & (numbers - vectors)]
