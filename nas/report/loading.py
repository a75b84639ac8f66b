"""Code snippets that load an export with PyTorch or ONNX Runtime, for the model card and the report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from typing import NamedTuple

from nas.export.artefact import INFER_FILE, ONNX_FILE
from nas.export.standalone import MODELING_FILE
from nas.form import OUTPUT_NAMES
from nas.tasks import TaskKind


class Snippet(NamedTuple):
    """A block of code with a title and the name of its language for syntax highlighting."""

    title: str
    language: str
    code: str


def snippets(folder: str, files: Collection[str], pairs: bool, kind: TaskKind) -> list[Snippet]:
    """Return code snippets that load the export in `folder` and apply it to a text or to a pair of texts.

    `files` contains the names of the files in the folder. `pairs` states whether the export reads pairs of texts.
    """
    has_own_class, quoted = MODELING_FILE in files, json.dumps(folder, ensure_ascii=False)
    trust = ", trust_remote_code=True" if has_own_class else ""
    example = '{"text": "one text", "text_pair": "another"}' if pairs else '"a text"'
    texts = '"one text", "another"' if pairs else '"a text"'
    result = [Snippet(title, "python", code) for title, code in kind.snippets(quoted, trust)]
    if kind.pipeline:
        served = Snippet(
            f"With torch and transformers{' (5 or later)' if has_own_class else ''}:",
            "python",
            "from transformers import pipeline\n\n"
            f'classify = pipeline("{kind.pipeline}", model={quoted}{trust})\n'
            f"print(classify({example}{kind.pipeline_arguments}))",
        )
        result.append(served)
    result.append(
        Snippet(
            "With ONNX Runtime:",
            "python",
            "import onnxruntime\n"
            "from transformers import PreTrainedTokenizerFast\n\n"
            f"tokenizer = PreTrainedTokenizerFast.from_pretrained({quoted})\n"
            f'tokens = tokenizer({texts}, truncation=True, return_tensors="np")\n'
            f"session = onnxruntime.InferenceSession({json.dumps(f'{folder}/{ONNX_FILE}', ensure_ascii=False)})\n"
            f'print(session.run(["{OUTPUT_NAMES[kind.network_form.network_type]}"], dict(tokens)))',
        )
    )
    if INFER_FILE in files:
        arguments = "--pairs $'one text\\tanother'" if pairs else '"a text"'
        title = "With only `pip install numpy tokenizers onnxruntime`:"
        result.append(Snippet(title, "bash", f"python {shlex.quote(f'{folder}/{INFER_FILE}')} {arguments}"))
    return result
