"""Snapshots: the files of a hub repository at one commit.

`find` resolves a branch, tag or commit to a `Snapshot`, which downloads files into the Hugging Face cache. If the hub
is out of reach, `find` returns a snapshot that was downloaded before. Teachers are loaded from the folder that
`model_folder` returns, and `nas.hub.splits` reads data sets from snapshots.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.file_download import repo_folder_name

from nas.errors import TeacherError
from nas.hub.problems import FAILURES, Kind, is_out_of_reach, translated_errors, why_out_of_reach

CARD = "README.md"
_COMMIT = re.compile("[0-9a-f]{40}")
_TIMEOUT_S = 10.0
"""The timeout of the request that resolves a revision, in seconds."""
_DESCRIPTION_FILES = ("*.json", "*.txt", "*.model", CARD)
"""Patterns for the files that hold a model's configuration, tokenizer and card."""
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
_MODULES_FILE = "modules.json"
"""The file in which sentence-transformers lists an encoder's modules and their folders."""
_PICKLED_WEIGHTS = ("pytorch_model*.bin", "tf_model.h5", "flax_model.msgpack")


@dataclass(frozen=True)
class Snapshot:
    """A hub repository at one commit, whose files can be listed and downloaded."""

    kind: Kind
    name: str
    commit: str

    def __str__(self) -> str:
        return f"{self.name} at {self.commit[:7]}"

    @property
    def folder(self) -> Path:
        """The folder in the cache that holds the downloaded files. The first download creates the folder."""
        folder = repo_folder_name(repo_id=self.name, repo_type=self.kind)
        return Path(constants.HF_HUB_CACHE).expanduser().resolve() / folder / "snapshots" / self.commit

    def files(self) -> list[str]:
        """Return the paths of all files in the snapshot.

        If the hub is out of reach, the list may contain only the files that were downloaded before.
        """
        with translated_errors(self.kind, self.name, self.commit):
            try:
                return self._listing()
            except CachedRepoTreeNotFoundError:
                folder = self._fetch([CARD])
            try:
                return self._listing()
            except CachedRepoTreeNotFoundError:
                return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def download(self, files: Iterable[str]) -> Path:
        """Download the files in `files` that are not stored locally yet, and return the folder with all of them."""
        patterns = [glob.escape(file) for file in files]
        with translated_errors(self.kind, self.name, self.commit):
            return self._fetch(patterns)

    def _listing(self) -> list[str]:
        files = get_cached_repo_tree(self.name, repo_type=self.kind, revision=self.commit)
        return [file.path for file in files]

    def _fetch(self, patterns: list[str]) -> Path:
        """Download the files that match `patterns`, and a list of all files. Return the local folder."""
        folder = snapshot_download(self.name, repo_type=self.kind, revision=self.commit, allow_patterns=patterns)
        return Path(folder)


def find(kind: Kind, name: str, revision: str | None) -> tuple[Snapshot, str]:
    """Return the snapshot of a branch, tag or commit, and a string that says why the hub is out of reach.

    The string is empty unless the hub is out of reach. In that case, the snapshot is the one that was found last for
    this revision. If `revision` is None, the main branch is used. Raises `TeacherError` or `DataError` if there is no
    snapshot.
    """
    with translated_errors(kind, name, revision):
        if revision and is_commit(revision) and (known := Snapshot(kind, name, revision)).folder.is_dir():
            return known, ""
        problem = _request_commit(kind, name, revision)[1]
        if problem and revision and is_commit(revision):
            raise problem
        api = HfApi()  # resolves the revision again, but stores the answer for use without the hub
        try:
            resolved = api.resolve_revision(name, repo_type=kind, revision=revision, local_files_only=bool(problem))
        except RevisionResolutionError as absent:
            raise problem or absent from None
    return Snapshot(kind, name, resolved.resolved), why_out_of_reach(problem) if problem else ""


def latest(kind: Kind, name: str, revision: str | None) -> tuple[str | None, str]:
    """Return the commit that a branch or tag points to now, and a string that says why the hub is out of reach.

    The string is empty unless the hub is out of reach. In that case, the commit is None.
    """
    with translated_errors(kind, name, revision):
        commit, problem = _request_commit(kind, name, revision)
    return commit, why_out_of_reach(problem) if problem else ""


def _request_commit(kind: Kind, name: str, revision: str | None) -> tuple[str | None, Exception | None]:
    """Return the commit of a revision and None, or None and the exception if the hub is out of reach."""
    try:
        return HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_TIMEOUT_S).sha, None
    except FAILURES as problem:
        if not is_out_of_reach(problem):
            raise
        return None, problem


def is_commit(revision: str) -> bool:
    """Whether a revision is the full hash of a commit.

    Unlike a branch or a tag, a commit always refers to the same files.
    """
    return bool(_COMMIT.fullmatch(revision))


def model_folder(snapshot: Snapshot, weights: bool) -> Path:
    """Download a model's configuration and tokenizer, and return the local folder that holds these files.

    If the model is a sentence encoder, the configurations of the modules after the encoder are included. If `weights`
    is set, download the weights to the same folder. Raises `TeacherError` if the snapshot has no
    configuration, or no weights in safetensors format.
    """
    paths = snapshot.files()
    files = [file for file in paths if "/" not in file]
    if "config.json" not in files:
        raise TeacherError(
            f"teacher.model: {snapshot}: the repository has no config.json, so it is not a transformers model; "
            "give another id"
        )
    weight_files = _matching(files, _WEIGHTS)
    if not weight_files:
        pickled = _matching(files, _PICKLED_WEIGHTS)
        instead = (
            f"only {pickled[0]}, which nas does not load" if pickled else "and no other weights in safetensors format"
        )
        raise TeacherError(
            f"teacher.model: {snapshot}: the repository has no model.safetensors, {instead}; set teacher.revision to "
            "a revision with this file (the hub's converter opens pull requests such as refs/pr/1), or save the model "
            "with transformers and give that folder"
        )
    settings, module_weights = _module_files(snapshot, paths) if _MODULES_FILE in files else ([], [])
    described = _matching(files, _DESCRIPTION_FILES) + settings
    return snapshot.download(described + ([*weight_files, *module_weights] if weights else []))


def _module_files(snapshot: Snapshot, paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the configurations and the weights of a sentence encoder's modules, which are in subfolders.

    `paths` are the paths of all files in the snapshot. Raises `TeacherError` if a module's weights are pickled.
    """
    try:
        listed = json.loads((snapshot.download([_MODULES_FILE]) / _MODULES_FILE).read_bytes())
        folders = [str(module["path"]) for module in listed if module["path"]]
    except (ValueError, TypeError, KeyError):
        return [], []  # reading the downloaded file raises an error that says what is wrong
    weights = [f"{folder}/model.safetensors" for folder in folders]
    for file, pickled in zip(weights, (f"{folder}/pytorch_model.bin" for folder in folders), strict=True):
        if pickled in paths and file not in paths:
            raise TeacherError(
                f"teacher.model: {snapshot}: has {pickled}, which nas does not load, but no {file}; set "
                f"teacher.revision to a revision with this file, or run `hf download {snapshot.name} --local-dir "
                "FOLDER`, and give that folder: nas then says how to convert the file"
            )
    return [path for folder in folders if (path := f"{folder}/config.json") in paths], [
        path for path in weights if path in paths
    ]


def _matching(files: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [file for file in files if any(fnmatch(file, pattern) for pattern in patterns)]
