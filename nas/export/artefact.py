"""The files of an export: a Hugging Face folder that loads anywhere, with ONNX and a program that serves it."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from nas.errors import ExportError
from nas.export.standalone import AUTO_MAP, MODELING_FILE, modeling_source
from nas.files import read_json, write_folder, write_json
from nas.graph import save
from nas.model import CompactBertForSequenceClassification
from nas.model.onnx import to_onnx
from nas.model.stock import fits_stock, to_stock

ONNX_FILE = "model.onnx"
OPENVINO_FILE = "openvino_model.xml"
INFER_FILE = "infer.py"
ARCHITECTURE_FILE = "architecture.json"
VERIFICATION_FILE = "verification.json"
SAMPLES_FILE = "samples.json"
"""All latencies that the verification was made from, by device."""


def write_artefact(
    model: CompactBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    runtimes: Collection[str] = (),
) -> None:
    """Write weights (safetensors), configuration, tokenizer, ONNX and architecture; the folder appears complete.

    An architecture that the teacher's own class can express (`BertForSequenceClassification` and the like) is saved
    as such; any other as `CompactBertForSequenceClassification`, with the file that defines it. `infer.py` serves the
    ONNX file; for the runtime `openvino` there is its own format too. An existing folder is replaced.
    """

    def fill(draft: Path) -> None:
        stock = fits_stock(model.config)
        (to_stock(model) if stock else model).save_pretrained(draft)
        if not stock:
            (draft / MODELING_FILE).write_text(modeling_source(model.config), encoding="utf-8")
        _complete(draft / "config.json", model, stock)
        _save_tokenizer(tokenizer, model, draft)
        save(to_onnx(model), draft / ONNX_FILE)
        if "openvino" in runtimes:
            _save_openvino(draft)
        shutil.copyfile(Path(__file__).with_name(INFER_FILE), draft / INFER_FILE)
        write_json(draft / ARCHITECTURE_FILE, model.config.architecture.to_json())

    write_folder(folder, fill)


def _complete(path: Path, model: CompactBertForSequenceClassification, stock: bool) -> None:
    """Say in `config.json` where the model's class is defined, and that one output is a regression."""
    values = read_json(path, ExportError)
    values |= {} if stock else {"auto_map": AUTO_MAP}
    values |= {"problem_type": "regression"} if model.config.outputs == 1 else {}
    write_json(path, values)


def _save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, model: CompactBertForSequenceClassification, folder: Path
) -> None:
    """Whoever feeds the ONNX model from this tokenizer needs just its inputs, no longer than its positions."""
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = list(model.config.input_names)
    tokenizer.model_max_length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    tokenizer.save_pretrained(folder)


def _save_openvino(folder: Path) -> None:
    import openvino

    # Numbers stay as they are: accuracy and latency are those of the ONNX file.
    openvino.save_model(openvino.Core().read_model(folder / ONNX_FILE), folder / OPENVINO_FILE, compress_to_fp16=False)


def served_files(folder: Path, runtime: str) -> list[Path]:
    """The files that a runtime serves, whose size counts; it is given the first."""
    own = folder / OPENVINO_FILE
    if runtime == "openvino" and own.exists():
        return [own, own.with_suffix(".bin")]
    return [folder / ("model.safetensors" if runtime == "torch" else ONNX_FILE)]
