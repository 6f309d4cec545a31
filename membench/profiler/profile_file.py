"""A profile as a file, named as the result files of runs are."""

from pathlib import Path

from membench.files import rescue, write_whole
from membench.machine.provenance import result_stem
from membench.results.profile import Profile
from membench.results.records import strict_json


def as_text(profile: Profile) -> str:
    """What ``--json`` prints and the file holds."""
    return strict_json({"profile": profile.model_dump(mode="json")})


def write_profile(profile: Profile, folder: Path) -> str | None:
    """Writes ``profile-<layers>_<device>_<date>_<sha>.json``, never over another file.

    Returns:
        A line that says what went wrong, and where the profile is instead; None where it was written.
    """
    arms = "-".join(layer.arm for layer in profile.layers)
    stem = result_stem(f"profile-{arms}", profile.environment["device"], profile.started, profile.git_sha)
    path, number = folder / f"{stem}.json", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.json", number + 1
    content = f"{as_text(profile)}\n".encode()
    try:
        write_whole(path, content)
    except OSError as error:
        elsewhere = rescue(content, path.name)
        return f"{path} cannot be written ({error.strerror}){f'; it is {elsewhere}' if elsewhere else ''}"
    return None
