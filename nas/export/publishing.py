"""An export is uploaded to the Hugging Face hub, only when somebody asks for it."""

from __future__ import annotations

from pathlib import Path

from nas.errors import ExportError
from nas.export.artefact import ARCHITECTURE_FILE, VERIFICATION_FILE
from nas.files import read_json
from nas.hub import Upload, upload

CARD_FILE = "README.md"


def push(folder: Path, repository: str, private: bool = False) -> Upload:
    """Upload an export's folder with its card as the content of a model repository, which is made if it is not there.

    See `nas.hub.upload` about repositories that exist. Raises `ExportError` if the folder is no export that was
    verified and met its budget, or if the hub refuses it.
    """
    _check(folder)
    return upload(folder, repository, private, ARCHITECTURE_FILE, f"{folder.resolve().name}, exported by nas")


def _check(folder: Path) -> None:
    """Raise `ExportError` unless a folder is an export that was verified and has a card."""
    if not (folder / ARCHITECTURE_FILE).is_file():
        raise ExportError(
            f"{folder}: must be the folder of an export, but has no {ARCHITECTURE_FILE}; give one such as "
            "runs/my-study/exports/fast"
        )
    if not (folder / VERIFICATION_FILE).is_file():
        raise ExportError(f"{folder}: was not verified, since it has no {VERIFICATION_FILE}; run nas export first")
    if read_json(folder / VERIFICATION_FILE, ExportError).get("met") is False:
        raise ExportError(
            f"{folder}: missed its budget when it was verified; run nas export again, which takes the next best network"
        )
    if not (folder / CARD_FILE).is_file():
        raise ExportError(f"{folder}: has no model card, {CARD_FILE}; run nas export again, which writes it")
