"""What is installed: exact versions for the two commands, and ranges whose two ends can be tried."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNNING = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
OTHERS = [
    requirement
    for line in sum(PROJECT["project"]["optional-dependencies"].values(), PROJECT["build-system"]["requires"])
    if (requirement := Requirement(line)).name != "membench"
]


def pinned(file):
    """The one version of every package that a constraints file allows."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    found = dict(re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9a-z.]*)", line).groups() for line in lines)
    versions = {canonicalize_name(name): version for name, version in found.items()}
    assert len(versions) == len(lines)
    return versions


def lower_bound(requirement):
    (bound,) = (each.version for each in requirement.specifier if each.operator in (">=", "==", "~="))
    return Version(bound)


@pytest.mark.parametrize("requirement", RUNNING + OTHERS, ids=lambda requirement: requirement.name)
def test_the_two_commands_install_one_version_inside_the_range(requirement):
    assert requirement.specifier.contains(pinned("constraints.txt")[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("requirement", RUNNING + OTHERS, ids=lambda requirement: requirement.name)
def test_the_lowest_that_is_tried_is_the_lower_bound(requirement):
    assert Version(pinned("constraints-lowest.txt")[canonicalize_name(requirement.name)]) == lower_bound(requirement)


@pytest.mark.parametrize("requirement", RUNNING, ids=lambda requirement: requirement.name)
def test_what_running_needs_has_a_range_with_two_ends(requirement):
    assert {each.operator for each in requirement.specifier} == {">=", "<"}


def test_no_version_is_of_one_kind_of_machine_only():
    """torch's CPU build, and what its CUDA build brings, would hold on this kind of machine alone."""
    assert not [name for name in pinned("constraints.txt") if re.match(r"cuda-|nvidia-(?!ml-py)", name)]
