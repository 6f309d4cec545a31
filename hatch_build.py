"""What a wheel holds beside ``membench/``. In a checkout, which an editable install is, all of it is there already."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FROM_TO = {
    "layers": "membench/layers",
    "layers/__init__.py": "layers/__init__.py",  # the short name of membench.layers
    "scenarios": "membench/scenarios",
}


class Inside(BuildHookInterface):
    """Puts into the package what lies beside it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"] |= _FROM_TO
