"""Wheels for a machine that has torch, few other packages, and no network.

    python -m benchmarks.gpu.wheels             here, with network: fetches them into gpu-wheels/
    python -m benchmarks.gpu.wheels FOLDER      there: unpacks into FOLDER what is missing there

Which ones follows from pyproject.toml and constraints.txt: what running and testing need, but for torch and
what comes with it. There, those that are missing or too old are unpacked; what is installed and new enough stays.
What neither place has is told.
"""

import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "gpu-wheels"
LIMIT_MIB = 50  # of 64 MiB that the checkout and the wheels may have together
PYTHON = "3.12"
# A machine with a GPU has these in versions of its own; the last two alone would be too large to bring.
_STAYS = frozenset({"torch", "triton", "numpy", "scipy", "matplotlib"})
_TESTING = frozenset({"jsonschema", "packaging", "pytest", "pytest-timeout", "pytest-xdist"})
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 26, 27, 28)] + ["manylinux2014_x86_64"]


def direct_requirements() -> list[str]:
    """Lines of pyproject.toml: what running needs, and the part of dev that tests of a GPU need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dev = [line for line in project["optional-dependencies"]["dev"] if _name(line) in _TESTING]
    return project["dependencies"] + dev


def pinned() -> dict[str, str]:
    """The version of every package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {_canonical(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}


def wanted() -> list[str]:
    """``name==version`` of every wheel, the needs of needs included, read from what is installed here.

    Raises:
        PackageNotFoundError: one of them is not installed here.
    """
    found: dict[str, None] = {}
    waiting = direct_requirements()
    while waiting:
        name = _name(waiting.pop())
        if name in _STAYS or name in found:
            continue
        found[name] = None
        waiting += _applying(metadata.distribution(name).requires or [])
    versions = pinned()
    return sorted(f"{name}=={versions[name]}" for name in found)


def fetch() -> None:
    """Downloads what is wanted; the largest are left out if all are too large. Old wheels go once new ones are here.

    Raises:
        CalledProcessError: pip could not fetch all; it says which.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp"]
    command += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "--dest", folder, *wanted()], check=True)
        kept, left_out = fitting(list(Path(folder).glob("*.whl")))
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        for wheel in kept:
            shutil.copy(wheel, FOLDER)
        told = f"; left out, too large: {', '.join(each.name for each in left_out)}" if left_out else ""
        print(f"{len(kept)} wheels of {_mib(kept):.0f} MiB in {FOLDER.name}/ for Python {PYTHON}{told}")


def fitting(wheels: list[Path]) -> tuple[list[Path], list[Path]]:
    """Those that stay within the limit, without the largest, and those left out."""
    kept = sorted(wheels, key=lambda wheel: wheel.stat().st_size)
    left_out = []
    while _mib(kept) > LIMIT_MIB:
        left_out.append(kept.pop())
    return kept, left_out


def provide(target: Path) -> str:
    """Unpacks what this Python lacks into ``target``, without a network; says what is missing then, and what is not.

    A wheel that cannot be unpacked is missing, and says why.
    """
    wheels = {_canonical(path.name.split("-")[0]): path for path in sorted(FOLDER.glob("*.whl"))}
    if "packaging" in wheels and not _installed("packaging"):
        sys.path.append(str(wheels["packaging"]))  # a zip of pure Python can be imported as it is
    unpacked: dict[str, Path] = {}
    missing: dict[str, str] = {}
    asked: set[str] = set()
    waiting = direct_requirements()
    while waiting:
        line = waiting.pop()
        name = _name(line)
        if line in asked or name in unpacked:
            continue
        asked.add(line)
        if _satisfied(line):
            if name not in _STAYS:  # what these need came with them
                waiting += _applying(metadata.distribution(name).requires or [])
        elif name in wheels:
            try:
                _unpack(wheels[name], target)
                waiting += _applying(_requires(wheels[name]))
                unpacked[name] = wheels[name]
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                missing[name] = f"{line} ({wheels[name].name}: {error})"
        else:
            missing.setdefault(name, line.partition(";")[0].strip())
    told = f"missing: {', '.join(text for _, text in sorted(missing.items())) or 'nothing'}"
    return f"{told}; from {FOLDER.name}/: {', '.join(sorted(unpacked)) or 'nothing'}"


def _satisfied(line: str) -> bool:
    found = _installed(_name(line))
    return found is not None and _requirement(line).specifier.contains(found, prereleases=True)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)


def _requires(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    return [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ")]


def _applying(lines: Iterable[str]) -> Iterator[str]:
    """The requirements that hold on the machine with the GPU, without extras."""
    there = {"extra": "", "python_version": PYTHON, "python_full_version": f"{PYTHON}.3"}
    there |= {"sys_platform": "linux", "platform_system": "Linux"}
    for line in lines:
        marker = _requirement(line).marker
        if marker is None or marker.evaluate(there):
            yield line


def _requirement(line: str) -> Any:
    try:
        from packaging.requirements import Requirement  # it may come from a wheel
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement

    return Requirement(line)


def _name(line: str) -> str:
    end = next((at for at, letter in enumerate(line) if not (letter.isalnum() or letter in "-_.")), len(line))
    return _canonical(line[:end])


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _mib(wheels: list[Path]) -> float:
    return sum(wheel.stat().st_size for wheel in wheels) / 2**20


if __name__ == "__main__":
    if sys.argv[1:]:
        print(provide(Path(sys.argv[1])))
        sys.exit()
    try:
        fetch()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{FOLDER.name}/ stays as it was: pip ended with exit code {error.returncode}")
    except metadata.PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed here: make test installs it")
