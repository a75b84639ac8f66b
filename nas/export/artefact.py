"""The files of an export: a Hugging Face folder with an ONNX model beside it."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from nas.files import write_folder, write_json
from nas.graph import save
from nas.model import CompactBertForSequenceClassification
from nas.model.onnx import to_onnx
from nas.model.stock import fits_stock, to_stock

ONNX_FILE = "model.onnx"
ARCHITECTURE_FILE = "architecture.json"
VERIFICATION_FILE = "verification.json"
SAMPLES_FILE = "samples.json"
"""All latencies that the verification was made from, by device."""


def write_artefact(
    model: CompactBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write weights (safetensors), configuration, tokenizer, ONNX and architecture; the folder appears complete.

    An architecture that the teacher's own class can express (`BertForSequenceClassification` and the like) is saved
    as such and needs no `nas` to be loaded; any other as `CompactBertForSequenceClassification`. An existing folder
    is replaced.
    """

    def fill(draft: Path) -> None:
        (to_stock(model) if fits_stock(model.config) else model).save_pretrained(draft)
        # Whoever feeds the ONNX model from this tokenizer needs just its inputs.
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = list(model.config.input_names)
        tokenizer.save_pretrained(draft)
        save(to_onnx(model), draft / ONNX_FILE)
        write_json(draft / ARCHITECTURE_FILE, model.config.architecture.to_json())

    write_folder(folder, fill)


def stored_file(folder: Path, runtime: str) -> Path:
    """The file whose size counts for a runtime."""
    return folder / ("model.safetensors" if runtime == "torch" else ONNX_FILE)
