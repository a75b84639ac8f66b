"""Uploads to the hub: `upload` replaces the content of a model repository with the files of a local folder.

`nas.export.publishing` calls `upload` for `nas push`. Nothing else in `nas` uploads anything.
"""

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

from nas.errors import ExportError, NasError, counted, first_line
from nas.hub.problems import LOG_IN, REFUSED_TOKEN, is_out_of_reach, is_refused_token, quiet, why_out_of_reach

_CREATED_BY_HUB = {".gitattributes", "README.md"}
"""Files that the hub may add when a repository is created."""
_HIDDEN_FILES = [".*", "*/.*"]
_NO_ACCESS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


@dataclass(frozen=True)
class Upload:
    """The repository that a folder was uploaded to, and the resulting commit."""

    repository: str
    url: str
    commit: str
    private: bool


def upload(folder: Path, name: str, private: bool, mark: str, title: str) -> Upload:
    """Replace the content of a model repository with the files of a folder, in one commit with the message `title`.

    If the repository does not exist, it is created: as a private one if `private` is set, otherwise with the default
    visibility of the account. If `private` is set, an existing repository must be private too. An existing repository
    must be empty or contain a file named `mark`, which shows that it contains an earlier upload. Files that only the
    repository contains are deleted. Hidden files of the folder are not uploaded.

    Raises `ExportError` if the repository breaks one of these rules, or if the upload fails.
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
        raise ExportError(f"{name}: HF_HUB_OFFLINE is set; unset it to upload")
    if not get_token():
        raise ExportError(f"{name}: uploading needs a login; {LOG_IN}")
    api = HfApi()
    name = api.create_repo(name, private=private or None, exist_ok=True).repo_id
    repository = api.model_info(name)
    if private and not repository.private:
        raise ExportError(
            f"{name}: --private needs a private repository, but this one is public; make it private at "
            f"{constants.ENDPOINT}/{name}/settings, or give the name of another repository"
        )
    files = {file.rfilename for file in repository.siblings or ()}
    if files - _CREATED_BY_HUB and mark not in files:
        raise ExportError(
            f"{name}: must be empty or contain an earlier export, but has no {mark} among its "
            f"{counted(len(files), 'file')}; give the name of another repository"
        )
    commit = api.upload_folder(
        repo_id=name, folder_path=folder, commit_message=title, ignore_patterns=list(_HIDDEN_FILES), delete_patterns="*"
    )
    return Upload(name, f"{constants.ENDPOINT}/{name}", commit.oid, bool(repository.private))


def _reason(problem: Exception) -> str:
    """Return the part of the message that says why the upload failed and what the user can do about it."""
    while isinstance(problem, RuntimeError) and isinstance(problem.__cause__, Exception):
        problem = problem.__cause__  # the error of a single file, which a thread uploads
    if isinstance(problem, HFValidationError):
        return "is not a hub id; give an id of the form owner/name"
    if isinstance(problem, HTTPError | OfflineModeIsEnabled) and is_out_of_reach(problem):
        return f"{why_out_of_reach(problem)}; check the network, the proxy and HF_ENDPOINT, or try again later"
    if not isinstance(problem, HfHubHTTPError):
        return f"the upload failed: {first_line(problem)}; try again"
    if is_refused_token(problem):
        return REFUSED_TOKEN
    code = problem.response.status_code
    server_message = (problem.server_message or str(problem)).splitlines()[0].rstrip(".")
    if code in _NO_ACCESS:
        return (
            f"the hub does not let you write to it ({code}: {server_message}); use a token with write access, or give "
            "a name under your own account"
        )
    return f"the hub answers with status {code}: {server_message}; resolve this problem, or try again later"
