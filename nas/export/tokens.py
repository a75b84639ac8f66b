"""Check that `infer.py` and transformers produce the same tokens as the ones on which accuracy was measured.

The export step calls `check_tokens` for each folder that it writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer

from nas.errors import ExportError
from nas.export.infer import encode, read_tokenizer


def check_tokens(folder: Path, test: Dataset, sample: Mapping[str, Sequence[str]]) -> None:
    """Raise `ExportError` if the tokens from `infer.py` or transformers differ from those in the tokenised test set.

    `sample` holds the texts to check, keyed by their row number in the test set.
    """
    standalone_tokenizer, transformers_tokenizer = read_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for row, texts in sample.items():
        measured_ids: list[int] = test[int(row)]["input_ids"]
        if not measured_ids:
            continue
        ids_by_library = {"infer.py": encode(standalone_tokenizer, *texts).ids}
        ids_by_library["transformers"] = transformers_tokenizer(*([text] for text in texts), truncation=True)[
            "input_ids"
        ][0]
        for name, ids in ids_by_library.items():
            if ids != measured_ids:
                raise ExportError(
                    f"{folder.name}: {name} must produce the tokens on which the network's accuracy was measured, but "
                    f"for row {row} (counted from 0) of the test set it produces {_first_ids(ids)}, not "
                    f"{_first_ids(measured_ids)}; save the teacher's tokenizer again, including its tokenizer.json, "
                    "or use another teacher"
                )


def _first_ids(ids: Sequence[int]) -> str:
    return f"{', '.join(map(str, ids[:8]))}{', ...' if len(ids) > 8 else ''} ({len(ids)} tokens)"
