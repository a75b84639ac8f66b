"""Upload an export to the Hugging Face hub. This happens only if a user runs `nas push`."""

from __future__ import annotations

from pathlib import Path

from nas.errors import ExportError
from nas.export.artefact import ARCHITECTURE_FILE, VERIFICATION_FILE
from nas.files import read_json
from nas.hub import Upload, upload

CARD_FILE = "README.md"


def push(folder: Path, repository: str, private: bool = False) -> Upload:
    """Upload an export's folder, including its model card, to a model repository on the Hugging Face hub.

    If the repository does not exist, it is created. The rules for existing repositories are those of `nas.hub.upload`.
    Raises `ExportError` if the folder is not a verified export, if the export missed its budget, or if the hub refuses
    the upload.
    """
    _check(folder)
    return upload(folder, repository, private, ARCHITECTURE_FILE, f"{folder.resolve().name}, exported by nas")


def _check(folder: Path) -> None:
    """Raise `ExportError` unless a folder is a verified export that has not missed its budget and has a model card."""
    if not (folder / ARCHITECTURE_FILE).is_file():
        raise ExportError(
            f"{folder}: must be the folder of an export, but has no {ARCHITECTURE_FILE}; give a folder such as "
            "runs/my-study/exports/fast"
        )
    if not (folder / VERIFICATION_FILE).is_file():
        raise ExportError(f"{folder}: was not verified, since it has no {VERIFICATION_FILE}; run nas export first")
    if read_json(folder / VERIFICATION_FILE, ExportError).get("met") is False:
        raise ExportError(
            f"{folder}: missed its budget when it was verified; run nas export again, which tries the next best network"
        )
    if not (folder / CARD_FILE).is_file():
        raise ExportError(f"{folder}: has no model card, {CARD_FILE}; run nas export again to write it")
