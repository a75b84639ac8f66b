"""Finds and reads study files, and replaces the variables in them with values."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.device import NAME, Device
from nas.errors import StudyError, shown
from nas.files import read_toml, validate

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def study_name(folder: Path) -> str:
    """Return the default name of a study: the name of its folder, with dashes instead of forbidden characters."""
    folder_name = folder.resolve().name
    if re.fullmatch(NAME, folder_name):
        return folder_name
    plain = unicodedata.normalize("NFKD", folder_name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-") or "study"


def shipped_studies() -> dict[str, Path]:
    """Return the paths of the study files that are part of `nas`, keyed by the name of the study."""
    package, checkout = Path(__file__).parents[1:3]
    files = (path for folder in (checkout, package) for path in sorted(folder.glob("studies/*/study.toml")))
    return {path.parent.name: path for path in files}


def study_file(study: str | Path) -> Path:
    """Return the path of a study file.

    `study` is this path, a folder with a `study.toml`, or the name of a shipped study. Raises `StudyError` if there is
    no such file.
    """
    path = Path(study)
    if path.is_dir():
        path = path / "study.toml"
    elif not path.exists() and str(study) in shipped_studies():
        path = shipped_studies()[str(study)]
    if not path.is_file():
        raise StudyError(
            f"{study}: no such study; give the path of a study.toml or of its folder, "
            f"or the name of a shipped study: {', '.join(sorted(shipped_studies()))}"
        )
    return path.resolve()


def read_study(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings in a study file as nested dictionaries, with variables replaced by their values.

    A variable that is missing in `variables` is taken from the environment. If the file sets no name, the default name
    is used. If a device names a `file`, the settings in this file are included. Raises `StudyError`.
    """
    raw = read_toml(path, StudyError)
    declared = raw.pop("variables", {})
    values = _substitute(raw, _variables(path, declared, variables))
    if "path" in values:
        raise StudyError(f"{path}: path: unknown key; remove it")
    values = {"name": study_name(path.parent), **values, "path": path}
    if isinstance(values.get("devices"), list):
        values["devices"] = [_device_settings(device, path) for device in values["devices"]]
    return values


def _variables(path: Path, declared: Any, values_by_name: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(declared, dict) or not all(isinstance(text, str) for text in declared.values()):
        raise StudyError(
            f'{path}: variables: must map the name of each variable to an explanation, such as DATA = "the data folder"'
        )
    unknown = sorted(set(values_by_name) - set(declared))
    if unknown:
        raise StudyError(
            f"{path}: --set {unknown[0]}: no such variable in this study; "
            f"it declares: {', '.join(sorted(declared)) or 'none'}"
        )
    values = {}
    for name, explanation in declared.items():
        value = values_by_name.get(name) or os.environ.get(name)
        if not value:
            raise StudyError(
                f"{path}: variable {name} is not set ({explanation}); "
                f"pass --set {name}=... or set the environment variable {name}"
            )
        # Unlike paths in the study file, a path in a variable is relative to the working directory of the command.
        values[name] = str(Path(value).resolve()) if Path(value).exists() else value
    return values


def _substitute(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_substitute(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in variables:
            raise StudyError(f"variable {name} is used but not declared; add it to [variables] with an explanation")
        return variables[name]

    return _VARIABLE.sub(replacement, value)


def _device_settings(device: Any, study: Path) -> Any:
    """Return the settings of a device, combined with those in the TOML file that its key `file` names.

    If a setting is in both, the setting in the study takes precedence.
    """
    if not isinstance(device, dict) or "file" not in device:
        return device
    if not isinstance(device["file"], str):
        raise StudyError(f"{study}: devices: file must be the path of a TOML file, but got {shown(device['file'])}")
    given_settings = {key: value for key, value in device.items() if key != "file"}
    path = study.parent / device["file"]
    values = read_toml(path, StudyError) | given_settings
    validate(Device, values, path, StudyError)
    return values
