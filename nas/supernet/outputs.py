"""The teacher's outputs for the training texts, computed once and stored on disk.

Training by distillation uses every text several times. For a small student, the teacher's forward pass takes longer
than the student's forward and backward passes together. `write` therefore computes the teacher's outputs for each
text once. `TeacherOutputs` maps the files into memory, and `DistillationTrainer` looks up the outputs for each batch.
The files are:

    outputs.json        a description of what the outputs were computed from
    rows.npy            the row numbers of the texts, in the order in which their outputs are stored
    logits.npy          (texts, num_labels), or (tokens of all texts, num_labels) if the readout is `every`, float32
    last.npy            if the readout is `first`: the first token's state after the last layer, (texts, hidden_size)
    states-<n>.npy      the hidden states before layer n, (tokens of all texts, hidden_size), float16

If the readout is not `first`, the `states-<n>.npy` with the largest n holds the hidden states after the last layer.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from datasets import Dataset
from numpy.lib.format import write_array_header_2_0

from nas.data import Batch, batches_by_length
from nas.data.files import values_of
from nas.errors import TrainingError
from nas.files import read_json, write_folder, write_json
from nas.form import Readout
from nas.model import CompactBert, CompactBertConfig
from nas.progress import track
from nas.supernet.distillation import Knowledge
from nas.threads import side_by_side

_INPUTS_FILE = "outputs.json"
_STATE_TYPE = np.dtype(np.float16)
_TEXT_COLUMNS = ("input_ids", "token_type_ids")
"""The columns that identify a text."""
_TITLE = "Computing the teacher's outputs"


def size_in_bytes(config: CompactBertConfig, train: Dataset) -> int:
    """Return the disk space, in bytes, that the teacher's outputs for the texts in `train` need."""
    tokens, width, texts = sum(values_of(train, "length")), config.hidden_size, len(train)
    last_states = texts if config.readout == "first" else tokens
    states = tokens * len(config.architecture.layers) + last_states
    return states * width * _STATE_TYPE.itemsize + 4 * config.outputs * (tokens if config.readout == "every" else texts)


def write(folder: Path, teacher: CompactBert, train: Dataset, inputs: dict[str, Any], bf16: bool) -> None:
    """Compute the teacher's outputs for all texts and write them to `folder`, which appears only when it is complete.

    `teacher` must be on the CPU. If `bf16` is set, its forward pass is computed in bf16. `inputs` describes what the
    outputs are computed from, and is stored with the outputs.
    """
    batches = list(batches_by_length(train))
    write_folder(folder, lambda draft: _write_outputs(draft, teacher.eval(), batches, inputs, bf16))


class TeacherOutputs:
    """The teacher's outputs that `write` stored in `folder`.

    Raises `TrainingError` if the number of stored texts or tokens differs from that of `train`.
    """

    def __init__(self, folder: Path, train: Dataset, readout: Readout = "first") -> None:
        self._logits, last = _memory_mapped(folder / "logits.npy"), folder / "last.npy"
        self._has_token_logits = readout == "every"
        self._last = _memory_mapped(last) if readout == "first" else None
        count = len(list(folder.glob("states-*.npy")))
        self._states = [_memory_mapped(folder / f"states-{number}.npy") for number in range(count)]
        order, lengths = np.load(folder / "rows.npy", allow_pickle=False), np.asarray(values_of(train, "length"))
        if len(order) != len(lengths) or len(self._states[0]) != lengths.sum():
            raise TrainingError(
                f"{folder}: the stored outputs must belong to the {len(lengths)} training texts, but their number of "
                "texts or tokens differs; remove the folder, so that nas computes the outputs again"
            )
        starts = np.concatenate([[0], np.cumsum(lengths[order])[:-1]])
        columns = [values_of(train, name) for name in _TEXT_COLUMNS if name in train.column_names]
        keys = [_key(*text) for text in zip(*columns, strict=True)]
        self._position_of_text = {keys[row]: (position, int(starts[position])) for position, row in enumerate(order)}

    def recall(self, inputs: Mapping[str, torch.Tensor]) -> Knowledge | None:
        """Return the teacher's outputs for a batch of padded texts, or None if the outputs of some text are not stored.

        Hidden states and token logits are zero at padding positions. If the readout is `first`, the last hidden state
        contains only the first token.
        """
        mask = inputs["attention_mask"].bool().numpy()
        columns = [inputs[name].numpy() for name in _TEXT_COLUMNS if name in inputs]
        positions = [
            self._position_of_text.get(_key(*(column[row][real] for column in columns)))
            for row, real in enumerate(mask)
        ]
        stored_positions = [position for position in positions if position is not None]
        if len(stored_positions) < len(positions):
            return None
        rows = np.array([row for row, _ in stored_positions])
        ends = [start + length for (_, start), length in zip(stored_positions, mask.sum(axis=1), strict=True)]
        tokens = np.concatenate([np.arange(start, end) for (_, start), end in zip(stored_positions, ends, strict=True)])
        is_token = torch.from_numpy(mask)

        def padded(stored: np.ndarray) -> torch.Tensor:
            padded_values = torch.zeros(*mask.shape, stored.shape[1])
            padded_values[is_token] = torch.from_numpy(stored[tokens]).float()
            return padded_values

        states = [padded(stored) for stored in self._states]
        if self._last is not None:
            states.append(torch.from_numpy(self._last[rows]).float()[:, None])
        logits = padded(self._logits) if self._has_token_logits else torch.from_numpy(self._logits[rows])
        return Knowledge((logits,), tuple(states), (None,) * len(states))


def stored_inputs(folder: Path) -> dict[str, Any] | None:
    """Return the description `inputs` that `write` stored in `folder`, or None if the folder has none."""
    path = folder / _INPUTS_FILE
    inputs: dict[str, Any] | None = read_json(path, TrainingError) if path.exists() else None
    return inputs


def remove(folder: Path) -> None:
    """Delete the outputs that `write` stored in `folder`.

    The description is deleted first, so that the remaining files are not used if the deletion is interrupted.
    """
    (folder / _INPUTS_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _write_outputs(
    folder: Path,
    teacher: CompactBert,
    batches: list[Batch],
    inputs: dict[str, Any],
    bf16: bool,
) -> None:
    def outputs(batch: Batch) -> tuple[np.ndarray, list[np.ndarray]]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = teacher(**batch.inputs, output_hidden_states=True, details=True)
        states = [state.float().numpy().astype(_STATE_TYPE) for state in output.hidden_states]
        return output.logits.float().numpy(), states

    tokens = sum(batch.inputs["input_ids"].numel() for batch in batches)
    texts = sum(len(batch.rows) for batch in batches)
    width, layers, readout = teacher.config.hidden_size, len(teacher.layers), teacher.config.readout
    with ExitStack() as stack:

        def opened(name: str, shape: tuple[int, int], kind: np.dtype[Any]) -> BinaryIO:
            stream = stack.enter_context((folder / f"{name}.npy").open("wb"))
            header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
            write_array_header_2_0(stream, header)
            return stream

        logit_rows = tokens if readout == "every" else texts
        logits = opened("logits", (logit_rows, teacher.config.outputs), np.dtype(np.float32))
        states = [opened(f"states-{number}", (tokens, width), _STATE_TYPE) for number in range(layers)]
        last, last_rows = ("last", texts) if readout == "first" else (f"states-{layers}", tokens)
        states.append(opened(last, (last_rows, width), _STATE_TYPE))
        with track(_TITLE, len(batches)) as progress, side_by_side(outputs, batches) as results:
            for batch_count, (batch_logits, hidden) in enumerate(results, start=1):
                logits.write(batch_logits.tobytes())
                for stream, state in zip(states, hidden, strict=True):
                    stream.write(state.tobytes())
                progress(batch_count)
    np.save(folder / "rows.npy", np.concatenate([batch.rows for batch in batches]), allow_pickle=False)
    write_json(folder / _INPUTS_FILE, inputs)


def _memory_mapped(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _key(*columns: Sequence[int] | np.ndarray) -> bytes:
    return b"".join(np.asarray(column, dtype=np.int32).tobytes() for column in columns)
