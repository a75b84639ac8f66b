"""The Hugging Face hub: what an id and a revision mean, and what a user can do if it does not answer.

The only room that asks the hub. Everything that it hands out is a folder or rows on this machine.
"""

from __future__ import annotations

from nas.hub.problems import TABLES, Kind
from nas.hub.snapshots import Snapshot, find, is_commit, latest, model_folder
from nas.hub.splits import check_split, names_in, read_split, splits
from nas.hub.uploads import Upload, upload

__all__ = [
    "TABLES",
    "Kind",
    "Snapshot",
    "Upload",
    "check_split",
    "find",
    "is_commit",
    "latest",
    "model_folder",
    "names_in",
    "read_split",
    "splits",
    "upload",
]
