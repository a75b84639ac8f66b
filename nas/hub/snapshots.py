"""Snapshots: the files of a repository at one commit, found by branch, tag or commit and downloaded into the cache."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
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
from nas.hub.problems import FAILURES, Kind, explained, is_out_of_reach, why_out_of_reach

CARD = "README.md"
_COMMIT = re.compile("[0-9a-f]{40}")
_PATIENCE_S = 10.0
"""How long the hub may take to say what a revision is."""
_ABOUT = ("*.json", "*.txt", "*.model", CARD)
"""Configuration and tokenizer of a model."""
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
_PICKLED = ("pytorch_model*.bin", "tf_model.h5", "flax_model.msgpack")


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit."""

    kind: Kind
    name: str
    commit: str

    def __str__(self) -> str:
        return f"{self.name} at {self.commit[:7]}"

    @property
    def folder(self) -> Path:
        """Where its files are, if they were downloaded."""
        folder = repo_folder_name(repo_id=self.name, repo_type=self.kind)
        return Path(constants.HF_HUB_CACHE).expanduser().resolve() / folder / "snapshots" / self.commit

    def files(self) -> list[str]:
        """Return the paths of all its files; perhaps only of those downloaded before, if the hub is out of reach."""
        with explained(self.kind, self.name, self.commit):
            try:
                return self._listing()
            except CachedRepoTreeNotFoundError:
                folder = self._fetch([CARD])
            try:
                return self._listing()
            except CachedRepoTreeNotFoundError:
                return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def download(self, files: Iterable[str]) -> Path:
        """The folder with these files of it, which are downloaded if they are not there."""
        wanted = [glob.escape(file) for file in files]
        with explained(self.kind, self.name, self.commit):
            return self._fetch(wanted)

    def _listing(self) -> list[str]:
        found = get_cached_repo_tree(self.name, repo_type=self.kind, revision=self.commit)
        return [file.path for file in found]

    def _fetch(self, patterns: list[str]) -> Path:
        """The folder with the files that match, after they and the listing were brought into the cache."""
        found = snapshot_download(self.name, repo_type=self.kind, revision=self.commit, allow_patterns=patterns)
        return Path(found)


def find(kind: Kind, name: str, revision: str | None) -> tuple[Snapshot, str]:
    """Return the snapshot of a branch, tag or commit, by default of the main branch.

    If the hub is out of reach, it is the last one that was seen, and the second value, otherwise empty, says why.
    Raises `TeacherError` or `DataError` if there is none.
    """
    with explained(kind, name, revision):
        if revision and is_commit(revision) and (known := Snapshot(kind, name, revision)).folder.is_dir():
            return known, ""
        problem = _ask(kind, name, revision)[1]
        if problem and revision and is_commit(revision):
            raise problem
        api = HfApi()  # without a problem it asks again, but notes the answer for times when the hub is out of reach
        try:
            found = api.resolve_revision(name, repo_type=kind, revision=revision, local_files_only=bool(problem))
        except RevisionResolutionError as absent:
            raise problem or absent from None
    return Snapshot(kind, name, found.resolved), why_out_of_reach(problem) if problem else ""


def latest(kind: Kind, name: str, revision: str | None) -> tuple[str | None, str]:
    """The commit that a branch or tag is at now; if the hub is out of reach, nothing, and why."""
    with explained(kind, name, revision):
        commit, problem = _ask(kind, name, revision)
    return commit, why_out_of_reach(problem) if problem else ""


def _ask(kind: Kind, name: str, revision: str | None) -> tuple[str | None, Exception | None]:
    """The commit that the hub names, or the problem that kept it from answering."""
    try:
        return HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_PATIENCE_S).sha, None
    except FAILURES as problem:
        if not is_out_of_reach(problem):
            raise
        return None, problem


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit's full hash, which always means the same files."""
    return bool(_COMMIT.fullmatch(revision))


def model_folder(snapshot: Snapshot, weights: bool) -> Path:
    """The folder with a model's configuration, its tokenizer and, if asked for, its weights.

    Raises `TeacherError` if there is no configuration, or no weights in safetensors.
    """
    files = [file for file in snapshot.files() if "/" not in file]
    if "config.json" not in files:
        raise TeacherError(
            f"teacher.model: {snapshot}: has no config.json, so it is no model of transformers; give another id"
        )
    stored = _matching(files, _WEIGHTS)
    if not stored:
        pickled = _matching(files, _PICKLED)
        has = f"only {pickled[0]}, which is not loaded" if pickled else "no weights in safetensors"
        raise TeacherError(
            f"teacher.model: {snapshot}: has no model.safetensors, {has}; set teacher.revision to a commit that has it "
            "(the hub's converter makes pull requests such as refs/pr/1), or save it with transformers in a folder and "
            "give that"
        )
    return snapshot.download(_matching(files, _ABOUT) + (stored if weights else []))


def _matching(files: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [file for file in files if any(fnmatch(file, pattern) for pattern in patterns)]
