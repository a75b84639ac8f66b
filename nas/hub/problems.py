"""Translates errors of the Hugging Face hub into one-line messages that name the problem and the remedy.

The context manager `translated_errors` converts exceptions of the hub client into `TeacherError` or `DataError`.
`is_out_of_reach` and `why_out_of_reach` tell whether and why the hub gave no answer, so that callers can use earlier
downloads instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from logging import CRITICAL
from typing import Literal

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is the HTTP library's
    DisabledRepoError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import logging
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from nas.errors import DataError, NasError, TeacherError, first_line
from nas.limits import machine_limit_of

Kind = Literal["model", "dataset"]
ERRORS: dict[Kind, type[NasError]] = {"model": TeacherError, "dataset": DataError}
KEYS: dict[Kind, str] = {"model": "teacher.model", "dataset": "task.hub"}
"""The setting of the study file that holds the id of a repository, keyed by the kind of repository."""
TABLES: dict[Kind, str] = {"model": "teacher", "dataset": "task"}
"""The table of the study file that holds the settings for a repository, keyed by the kind of repository."""
_NOUNS: dict[Kind, str] = {"model": "model", "dataset": "data set"}
_NOT_FOUND: dict[Kind, str] = {
    "model": "is not a folder next to the study, and the hub has no such model or it is private",
    "dataset": "the hub has no such data set or it is private",
}
FAILURES = (HTTPError, OfflineModeIsEnabled)
"""The exceptions that the hub client raises if a request gets no valid answer."""
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
REFUSED_TOKEN = "the hub does not accept your token; log in again with `hf auth login`, or correct or unset HF_TOKEN"
_MAX_REVISIONS_LISTED = 10
"""The largest number of branches and tags that a message lists."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and warnings of the hub client within the `with` block."""
    verbosity, had_bars = logging.get_verbosity(), not are_progress_bars_disabled()
    logging.set_verbosity(CRITICAL)
    disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            enable_progress_bars()


@contextmanager
def translated_errors(kind: Kind, name: str, revision: str | None) -> Iterator[None]:
    """Convert hub errors within the `with` block into a `TeacherError` or `DataError` with a one-line message.

    `name` and `revision` are the requested repository and revision. If the cause is a limit of this machine, such as a
    full disk, a `MachineError` is raised instead. The hub client is silenced as in `quiet`.
    """
    with quiet():
        try:
            yield
        except NasError:
            raise
        except (HTTPError, OSError, ValueError, RevisionResolutionError) as problem:
            is_answer = isinstance(problem, HTTPError)  # an answer of the hub is never about a limit of this machine
            limit = None if is_answer else machine_limit_of(problem, constants.HF_HUB_CACHE)
            raise limit or _error(kind, name, revision, problem) from None


def is_out_of_reach(problem: Exception) -> bool:
    """Whether the hub gave no answer about a repository.

    If it gave none, the caller may use an earlier download instead.
    """
    if isinstance(problem, HfHubHTTPError):
        code = problem.response.status_code
        return code >= HTTPStatus.INTERNAL_SERVER_ERROR or code == HTTPStatus.TOO_MANY_REQUESTS
    return isinstance(problem, HTTPError | OfflineModeIsEnabled)


def why_out_of_reach(problem: Exception) -> str:
    """Return a clause for messages that says why the hub gave no answer."""
    if isinstance(problem, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if not isinstance(problem, HfHubHTTPError):
        return f"{constants.ENDPOINT} cannot be reached ({first_line(problem)})"
    code = problem.response.status_code
    if code == HTTPStatus.TOO_MANY_REQUESTS:
        return "the hub accepts no more requests for now (429, rate limit)"
    return f"the hub reports an internal error ({code})"


def is_refused_token(problem: HfHubHTTPError) -> bool:
    """Whether the hub rejected the user's token as invalid."""
    code = problem.response.status_code
    return code == HTTPStatus.UNAUTHORIZED and "invalid credentials" in str(problem).lower()


def _error(kind: Kind, name: str, revision: str | None, problem: Exception) -> NasError:
    while isinstance(problem, LocalEntryNotFoundError | RevisionResolutionError) and isinstance(
        problem.__cause__, Exception
    ):
        problem = problem.__cause__
    if isinstance(problem, RevisionNotFoundError):
        where = f"{TABLES[kind]}.revision: {name}"
        return ERRORS[kind](f"{where} has no branch, tag or commit {revision!r}; {_known_revisions(kind, name)}")
    return ERRORS[kind](f"{KEYS[kind]}: {name}: {_reason(kind, name, problem)}")


def _reason(kind: Kind, name: str, problem: Exception) -> str:
    """Return the part of the message that says what is wrong with the repository and what the user can do about it."""
    if isinstance(problem, HFValidationError):
        return f"is not a hub id; give an id of the form owner/name, or {_local_alternative(kind)}"
    if is_out_of_reach(problem):
        reason = f"{why_out_of_reach(problem)}, and the {_NOUNS[kind]} was not downloaded before"
        return f"{reason}; {_offline_remedy(kind, name, problem)}"
    if isinstance(problem, HfHubHTTPError):
        return _refusal(kind, name, problem)
    if isinstance(problem, FileMetadataError) or not isinstance(problem, OSError):
        return f"{constants.ENDPOINT} does not answer like a Hugging Face hub; check HF_ENDPOINT and the proxy"
    if isinstance(problem, LocalEntryNotFoundError):
        return f"was not downloaded before; {_offline_remedy(kind, name, OfflineModeIsEnabled())}"
    failure = f"cannot be stored in {problem.filename or constants.HF_HUB_CACHE}"
    return f"{failure} ({problem.strerror or problem}); make the folder writable, or set HF_HOME to another folder"


def _refusal(kind: Kind, name: str, problem: HfHubHTTPError) -> str:
    """Return the part of the message that says why the hub refused a request and what the user can do about it."""
    code, has_token = problem.response.status_code, bool(get_token())
    if isinstance(problem, GatedRepoError):
        page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
        access_note, next_step = (
            (", and your account has no access yet", "wait until access is granted") if has_token else ("", LOG_IN)
        )
        reason = f"is gated{access_note}; accept its terms at {page}, then {next_step}"
    elif isinstance(problem, DisabledRepoError):
        reason = f"is disabled on the hub; give another {_NOUNS[kind]}"
    elif is_refused_token(problem):
        reason = REFUSED_TOKEN
    elif isinstance(problem, RepositoryNotFoundError) or code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND):
        remedy = "use the token of an account that may read it" if has_token else LOG_IN
        reason = f"{_NOT_FOUND[kind]}; correct the id, or {remedy}"
    elif code == HTTPStatus.FORBIDDEN:
        reason = "the hub does not let you read it (403); use the token of an account that may read it"
    else:
        server_message = (problem.server_message or str(problem)).splitlines()[0]
        reason = f"the hub answers with status {code}: {server_message}; correct the id"
    return reason


def _offline_remedy(kind: Kind, name: str, problem: Exception) -> str:
    if isinstance(problem, OfflineModeIsEnabled):
        download = f"`hf download {'--repo-type dataset ' if kind == 'dataset' else ''}{name}`"
        return f"unset HF_HUB_OFFLINE, run {download} while online, or give {_local_alternative(kind)}"
    if isinstance(problem, HfHubHTTPError):
        return f"try again later, or give {_local_alternative(kind)}"
    return f"check the network, the proxy and HF_ENDPOINT, or give {_local_alternative(kind)}"


def _local_alternative(kind: Kind) -> str:
    return "a local folder" if kind == "model" else "local files"


def _known_revisions(kind: Kind, name: str) -> str:
    """Return the remedy for an unknown revision.

    The remedy names the existing branches and tags if the hub lists them.
    """
    try:
        refs = HfApi().list_repo_refs(name, repo_type=kind)
    except (HTTPError, OSError, ValueError):
        return "correct the revision"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    more = f" and {len(names) - _MAX_REVISIONS_LISTED} more" if len(names) > _MAX_REVISIONS_LISTED else ""
    return f"use one of {', '.join(names[:_MAX_REVISIONS_LISTED])}{more}"
