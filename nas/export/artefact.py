"""Write the folder of an export: a Hugging Face model, an ONNX file, and a program that runs the ONNX file.

The export step and the baselines call `write_artefact`. `verification.py` then measures the written files. The ONNX
file is `onnx/model.onnx`, because all servers and libraries look for the file there, and transformers.js looks
nowhere else (docs/serving.md).
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from nas.errors import ExportError
from nas.export.sentences import write_sentence_modules
from nas.export.standalone import MODELING_FILE, auto_map, modeling_source
from nas.files import read_json, write_folder, write_json
from nas.form import NetworkType
from nas.graph import save
from nas.model import CompactBert, CompactBertConfig
from nas.model.calibration import lacks_calibration
from nas.model.checkpoint import WEIGHTS_FILE
from nas.model.modeling import as_public_class, types_named
from nas.model.onnx import to_onnx
from nas.model.stock import fits_stock, form_of, to_stock
from nas.model.tokenizer import make_uniform
from nas.runtimes import RUNTIMES, FileRuntime
from nas.sentence_modules import DENSE_FOLDER

ONNX_FILE = "onnx/model.onnx"
INFER_FILE = "infer.py"
ARCHITECTURE_FILE = "architecture.json"
VERIFICATION_FILE = "verification.json"
SAMPLES_FILE = "samples.json"
"""The name of the file with the latency samples of the verification, keyed by device name."""
_BROWSER_ENTRIES = {"transformers.js_config": {"dtype": "fp32"}}
"""An entry of `config.json` that makes transformers.js load `model.onnx` in browsers. By default, transformers.js loads
`model_quantized.onnx`.
"""
_NEW_TOKENIZER_CLASS, _OLD_TOKENIZER_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
"""Two names for the class of a tokenizer that is defined only by its `tokenizer.json`. Transformers 5 writes the first
name and accepts both names. Transformers 4 and transformers.js accept only the second name.
"""


def write_artefact(
    model: CompactBert,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    runtimes: Collection[str] = (),
    max_length: int | None = None,
    pairs: bool = False,
    about_task: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write weights (safetensors), configuration, tokenizer, ONNX file, `infer.py` and architecture to `folder`.

    An existing folder is replaced. If the export fails, no incomplete folder is left behind. `max_length` is the number
    of tokens to which texts are truncated. The default is the tokenizer's limit. `pairs` must be true if each example
    is a text pair. `about_task` holds additional entries for `config.json`.

    If the teacher's class in transformers, such as `BertForSequenceClassification`, can express the architecture, the
    model is saved as an object of that class. Otherwise, the model is saved as a `CompactBert`, together with the
    modelling file that defines `CompactBert`. If a runtime that `runtimes` names has its own file format, such as
    OpenVINO, the model is also saved in this format. Raises `ExportError` if the model must be calibrated first.
    """
    if lacks_calibration(model):
        raise ExportError(
            f"{folder.name}: {model.config.architecture.describe()}: this network needs ranges of its activations, but "
            "has none; compute them with nas.model.calibration.calibrate first"
        )

    def fill(draft: Path) -> None:
        is_stock = fits_stock(model)
        (to_stock(model) if is_stock else as_public_class(model)).save_pretrained(draft)
        if not is_stock:
            (draft / MODELING_FILE).write_text(modeling_source(model.config), encoding="utf-8")
        if model.config.network_type == "encoder":
            write_sentence_modules(draft, form_of(model.config), model.config.hidden_size, model.classifier)
        classes = {} if is_stock else {"auto_map": auto_map(model.config.network_type)}
        _complete_config(draft / "config.json", model.config, {**classes, **_BROWSER_ENTRIES, **about_task}, pairs)
        served_tokenizer(tokenizer, model.config, max_length).save_pretrained(draft)
        _rename_tokenizer_class(draft / "tokenizer_config.json")
        save(to_onnx(model), draft / ONNX_FILE)
        for name in runtimes:
            if isinstance(runtime := RUNTIMES[name], FileRuntime):
                runtime.save_export(draft / ONNX_FILE, draft)
        shutil.copyfile(Path(__file__).with_name(INFER_FILE), draft / INFER_FILE)
        write_json(draft / ARCHITECTURE_FILE, model.config.architecture.to_json())

    write_folder(folder, fill)


def _complete_config(path: Path, config: CompactBertConfig, further_entries: Mapping[str, Any], pairs: bool) -> None:
    """Add the entries of `config.json` that the model's class does not write.

    These entries include `hidden_size` and `num_hidden_layers`. text-embeddings-inference needs these two settings, but
    DistilBERT has other names for them.
    """
    sizes = {"hidden_size": config.hidden_size, "num_hidden_layers": config.num_hidden_layers}
    write_json(
        path, sizes | read_json(path, ExportError) | dict(further_entries) | ({"text_pairs": True} if pairs else {})
    )


def _rename_tokenizer_class(path: Path) -> None:
    """Replace the tokenizer's class name with the name that older versions of transformers know."""
    values = read_json(path, ExportError)
    if values["tokenizer_class"] == _NEW_TOKENIZER_CLASS:
        write_json(path, values | {"tokenizer_class": _OLD_TOKENIZER_CLASS})


def served_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: CompactBertConfig, max_length: int | None = None
) -> PreTrainedTokenizerBase:
    """Return a copy of `tokenizer` for an export.

    In both transformers and tokenizers, the copy produces the same tokens as when accuracy was measured. It returns
    only the inputs that the network has. It truncates texts to `max_length` tokens, on the same side as `tokenizer`
    does. The truncation is also stored in `tokenizer.json`, which the tokenizers library reads. Padding is added on the
    right, because a classifier reads the first token. Stored padding settings are removed.
    """
    served: Any = copy.deepcopy(tokenizer)
    served.model_input_names = served.init_kwargs["model_input_names"] = list(config.input_names)
    served.model_max_length = min(max_length or served.model_max_length, config.max_position_embeddings)
    make_uniform(served)
    served.backend_tokenizer.enable_truncation(served.model_max_length, direction=served.truncation_side)
    return cast(PreTrainedTokenizerBase, served)


def network_type_of(folder: Path) -> NetworkType:
    """Return the type of the network in an export's folder, derived from the class name in `config.json`."""
    return next(iter(types_named(read_json(folder / "config.json", ExportError)["architectures"])), "encoder")


def served_files(folder: Path, runtime: str) -> list[Path]:
    """Return the files that a runtime loads. The first file is the one to pass to the runtime.

    The reported size of an export is the total size of these files.
    """
    library = RUNTIMES[runtime]
    if isinstance(library, FileRuntime):
        return library.files_of(library.exported_file(folder / ONNX_FILE, folder))
    dense = folder / DENSE_FOLDER / WEIGHTS_FILE
    return [folder / WEIGHTS_FILE, *([dense] if dense.exists() else [])]
