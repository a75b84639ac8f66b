"""Uploads: a folder becomes the content of a model repository, which is made if it is not there."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is the HTTP library's
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)

from nas.errors import ExportError, NasError
from nas.hub.problems import LOG_IN, REFUSED_TOKEN, is_out_of_reach, is_refused_token, quiet, why_out_of_reach

_BY_THE_HUB = {".gitattributes", "README.md"}
"""Files that a repository may have from its beginning."""
_HIDDEN = [".*", "*/.*"]
_MAY_NOT = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


@dataclass(frozen=True)
class Upload:
    """What a folder was uploaded as."""

    repository: str
    url: str
    commit: str
    private: bool


def upload(folder: Path, name: str, private: bool, mark: str, title: str) -> Upload:
    """Make a folder the content of a model repository, in one commit with a title; hidden files stay behind.

    A repository that is not there is made, `private` or as the account's settings say. One that is there must be
    private if that is asked for, and must have the file `mark`, by which it is known to hold an earlier upload, unless
    it is empty. Files of it that the folder does not have are deleted.

    Raises `ExportError` if the hub or one of these rules refuses it.
    """
    with quiet():
        try:
            return _upload(folder, name, private, mark, title)
        except NasError:
            raise
        except (HTTPError, OSError, ValueError, RuntimeError) as problem:
            raise ExportError(f"{name}: {_reason(problem)}") from None


def _upload(folder: Path, name: str, private: bool, mark: str, title: str) -> Upload:
    if constants.HF_HUB_OFFLINE:
        raise ExportError(f"{name}: HF_HUB_OFFLINE is set; unset it to upload something")
    if not get_token():
        raise ExportError(f"{name}: only who is logged in can upload something; {LOG_IN}")
    api = HfApi()
    name = api.create_repo(name, private=private or None, exist_ok=True).repo_id
    known = api.model_info(name)
    if private and not known.private:
        raise ExportError(
            f"{name}: --private needs a private repository, but this one is public; make it private at "
            f"{constants.ENDPOINT}/{name}/settings, or give another name"
        )
    files = {file.rfilename for file in known.siblings or ()}
    if files - _BY_THE_HUB and mark not in files:
        raise ExportError(
            f"{name}: must be empty or hold an earlier export, but has no {mark} among its {len(files)} files; give "
            "another name"
        )
    made = api.upload_folder(
        repo_id=name, folder_path=folder, commit_message=title, ignore_patterns=list(_HIDDEN), delete_patterns="*"
    )
    return Upload(name, f"{constants.ENDPOINT}/{name}", made.oid, bool(known.private))


def _reason(problem: Exception) -> str:
    """What is wrong, and the remedy."""
    while isinstance(problem, RuntimeError) and isinstance(problem.__cause__, Exception):
        problem = problem.__cause__  # of a single file, which is uploaded by a thread
    if isinstance(problem, HFValidationError):
        return "is no id of the hub, such as owner/name; correct it"
    if isinstance(problem, HTTPError | OfflineModeIsEnabled) and is_out_of_reach(problem):
        return f"{why_out_of_reach(problem)}; check the network, the proxy and HF_ENDPOINT, or try again later"
    if not isinstance(problem, HfHubHTTPError):
        return f"the upload failed: {(str(problem) or type(problem).__name__).splitlines()[0]}; try again"
    if is_refused_token(problem):
        return REFUSED_TOKEN
    code = problem.response.status_code
    said = (problem.server_message or str(problem)).splitlines()[0].rstrip(".")
    if code in _MAY_NOT:
        return (
            f"the hub does not let you write to it ({code}: {said}); use a token with the right to write, or give a "
            "name below your own account"
        )
    return f"the hub answers with {code}: {said}; correct what it names, or try again later"
