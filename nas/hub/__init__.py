"""Access to the Hugging Face hub: snapshots of repositories, splits of data sets, and uploads.

No other part of `nas` sends requests to the hub. The functions return local folders and data sets. Each error message
says in one line what went wrong and what the user can do about it.
"""

from __future__ import annotations

from nas.hub.problems import Kind
from nas.hub.snapshots import Snapshot, find, is_commit, latest, model_folder
from nas.hub.splits import check_split, read_split, split_names_in, splits
from nas.hub.uploads import Upload, upload

__all__ = [
    "Kind",
    "Snapshot",
    "Upload",
    "check_split",
    "find",
    "is_commit",
    "latest",
    "model_folder",
    "split_names_in",
    "read_split",
    "splits",
    "upload",
]
