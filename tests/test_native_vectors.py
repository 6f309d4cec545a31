"""Loops of the C++ kernels that ask for vectors get them on a processor with AVX2."""

import re
import shutil
import subprocess

import pytest

from layers.kernels import cpp_build

FOLDER = cpp_build._SOURCES
SOURCES = sorted(FOLDER.glob("*.cpp"))


def is_gnu(compiler):
    return compiler is not None and "Free Software" in subprocess.getoutput(f"{compiler} --version")


def loops_that_ask():
    """File, and lines from the head to the end of a loop: a compiler names one of those."""
    for path in sorted([*SOURCES, *FOLDER.glob("*.h")]):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if line.lstrip().startswith("#pragma omp simd"):
                head = lines[number]
                assert head.lstrip().startswith("for ("), (path.name, number)
                depth = len(head) - len(head.lstrip())
                after = (at for at in range(number + 1, len(lines)) if lines[at].strip())
                end = next(at for at in after if len(lines[at]) - len(lines[at].lstrip()) <= depth)
                yield path.name, range(number + 1, end + 1)


def lines_without_vectors(processor, folder):
    """File and line of each loop that stayed numbers; None if the compiler does not know the processor."""
    flags = [flag for flag in cpp_build._FLAGS if not flag.startswith(("-march", "-shared", "-fPIC"))]
    command = ["g++", *flags, f"-march={processor}", "-fopt-info-vec-optimized-missed", "-S"]
    found = {"optimized: loop": set(), "missed: couldn't vectorize loop": set()}
    for source in SOURCES:
        done = subprocess.run([*command, source, "-o", folder / "code.s"], capture_output=True, text=True, check=False)
        if "bad value" in done.stderr:
            return None
        assert done.returncode == 0, done.stderr
        for said, lines in found.items():
            lines |= {(name, int(line)) for name, line in re.findall(rf"([^/\n]+):(\d+):\d+: {said}", done.stderr)}
    vectors, numbers = found.values()
    return numbers - vectors


@pytest.mark.skipif(not is_gnu(shutil.which("g++")), reason="no GNU compiler")
def test_loops_that_ask_for_vectors_get_them(tmp_path):
    """A condition that could raise a floating-point exception, or a call, is enough that none are made."""
    without = lines_without_vectors("x86-64-v3", tmp_path)
    if without is None:
        pytest.skip("this compiler is for other processors")
    assert not [name for name, lines in loops_that_ask() if any((name, line) in without for line in lines)]
