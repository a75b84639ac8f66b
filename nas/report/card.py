"""The model card of an export: `README.md`, as a hub shows it, from what was measured on the files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache

from nas import __version__
from nas.architecture import Architecture
from nas.budget import Budget
from nas.compression import REGISTRY, compression
from nas.errors import ExportError
from nas.export.artefact import ARCHITECTURE_FILE, INFER_FILE, ONNX_FILE, VERIFICATION_FILE
from nas.export.standalone import MODELING_FILE
from nas.export.verification import on_each
from nas.files import read_json, write_text
from nas.report.figures import conditions, limits, milliseconds, score, significant, times, verdict
from nas.study import Study

CARD_FILE = "README.md"
_LICENCE = ("license", "license_name", "license_link")
_METRICS = {"spearman": "spearmanr", "pearson": "pearsonr"}
"""Where a hub has another name."""
_BODY = """
# {title}

{summary}

{figures}

{measured}

## Architecture

{architecture}

## How to use it

With torch and transformers{alone}:

```python
from transformers import pipeline

classify = pipeline("text-classification", model="{folder}"{trust})
print(classify({example}))
```

With ONNX Runtime:

```python
import onnxruntime
from transformers import PreTrainedTokenizerFast

tokens = PreTrainedTokenizerFast.from_pretrained("{folder}")({texts}, return_tensors="np")
session = onnxruntime.InferenceSession("{folder}/{onnx}")
print(session.run(["logits"], dict(tokens)))
```

With nothing but `pip install numpy tokenizers onnxruntime`:

```bash
python {folder}/{infer}{pairs} {shell}
```

Blocks in int8 round by the range of a whole batch: serve texts one by one to get the accuracy above.

## What it was made from

{origin}
"""


def write_card(folder: Path, study: Study) -> None:
    """Write the card of a verified export."""
    found = read_json(folder / VERIFICATION_FILE, ExportError)
    architecture = Architecture.from_json(read_json(folder / ARCHITECTURE_FILE, ExportError))
    labels = list(read_json(folder / "config.json", ExportError).get("id2label", {}).values())
    own, pairs = (folder / MODELING_FILE).exists(), len(study.task.text) > 1
    body = _BODY.format(
        title=f"{study.name}: {folder.name}",
        summary=_summary(study, found, labels),
        figures=_table(["", "this model", "teacher"], _figures(found)),
        measured=_measured(study, found),
        architecture=_architecture(architecture),
        alone=" (5 or later) alone" if own else "",
        folder=folder.name,
        trust=", trust_remote_code=True" if own else "",
        example='{"text": "one text", "text_pair": "another"}' if pairs else '"a text"',
        texts='"one text", "another"' if pairs else '"a text"',
        onnx=ONNX_FILE,
        infer=INFER_FILE,
        pairs=" --pairs" if pairs else "",
        shell="$'one text\\tanother'" if pairs else '"a text"',
        origin="\n".join(f"- {line}" for line in _origin(study, own)),
    )
    data = _metadata(study, folder.name, found)
    write_text(folder / CARD_FILE, str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}")))


def _metadata(study: Study, name: str, found: Mapping[str, Any]) -> ModelCardData:
    """What a hub reads."""
    task, teacher = study.task, study.teacher.model
    result = EvalResult(
        task_type="text-classification",
        dataset_type=task.hub or study.name,
        dataset_name=task.hub or study.name,
        dataset_config=task.config,
        dataset_split=task.test if task.hub else "test",
        metric_type=_METRICS.get(task.metric, task.metric),
        metric_value=round(found["accuracy"], 4),
    )
    return ModelCardData(
        model_name=name,
        base_model=None if _is_local(study) else teacher,
        datasets=[task.hub] if task.hub else None,
        metrics=[result.metric_type],
        eval_results=[result],
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["neural-architecture-search", "compression", "onnx"],
        **(_licence(study) or {"license": "unknown"}),
    )


def _is_local(study: Study) -> bool:
    """Whether the teacher is no model of a hub."""
    name = study.teacher.model
    return name == "embedded" or name.startswith((".", "/", "~")) or study.resolve(name).is_dir()


def _licence(study: Study) -> dict[str, Any]:
    """What the teacher's own card says of its licence; nothing is downloaded for it."""
    name = study.teacher.model
    path = study.resolve(name) / CARD_FILE if _is_local(study) else try_to_load_from_cache(name, CARD_FILE)
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return {}
    data = ModelCard(Path(path).read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    return {key: str(data[key]) for key in _LICENCE if data.get(key)}


def _summary(study: Study, found: Mapping[str, Any], labels: list[str]) -> str:
    kind = "pairs of texts" if len(study.task.text) > 1 else "texts"
    what = "Scores" if study.task.kind == "regression" else "Classifies"
    into = f" as {', '.join(labels[:-1])} or {labels[-1]}" if len(labels) > 1 else ""
    faster = "" if found["speed_up"] is None else f", {times(found['speed_up'])} as fast as its teacher"
    return (
        f"{what} {kind}{into}{faster}. A compact BERT whose layers have sizes and compression choices of their own, "
        "found by neural architecture search on latencies that were measured (`nas`)."
    )


def _figures(found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Rows of figure, value and the teacher's."""
    yield [
        f"{found['metric']} on the test set",
        score(found["accuracy"], found["accuracy_standard_error"]),
        score(found["teacher_accuracy"]),
    ]
    for name, own in on_each(found).items():
        for key, word in (("p50_ms", "median"), ("p95_ms", "95th percentile"), ("expected_ms", "mean")):
            teacher = own.get("teacher_latency", {}).get(key)
            yield [f"latency on {name}, {word}", milliseconds(own[key]), milliseconds(teacher)]
    yield ["size of the file that is served", f"{significant(found['size_mb'])} MB", ""]
    yield ["parameters", f"{found['params']:,}", ""]


def _measured(study: Study, found: Mapping[str, Any]) -> str:
    """Protocol, conditions and budget."""
    error = " (± its standard error)" if found["accuracy_standard_error"] else ""
    lines = [
        f"Accuracy: {found['test_examples']:,} examples that were read once, after all was decided{error}, none of "
        f"whose texts were trained on; texts were cut at {study.task.max_length} tokens.",
    ]
    for name, own in on_each(found).items():
        if "latency" in own:
            how = conditions(own["latency"]["device"], own["environment"])
            lines.append(f"Latency on {name}: {how}; a process that did nothing else, teacher and model in turns.")
    if found["budget"]:
        budget = Budget.model_validate(found["budget"])
        asked = ", ".join(limits(budget, {"p50_ms": found["teacher_p50_ms"]} if found["teacher_p50_ms"] else {}))
        lines.append(f"Budget: {asked}. Met: {verdict(found['met'])}.")
    if found.get("exits"):
        shares = ", ".join(f"{share:.0%}" for share in found["exits"])
        lines.append(f"Texts leave after each layer in these shares: {shares}.")
    return "\n\n".join(lines)


def _architecture(architecture: Architecture) -> str:
    """Layer by layer, and what the choices mean."""
    head = ["layer", "of the teacher's", "heads", "attention", "intermediate size", "feed-forward", "tokens kept"]
    rows = [
        [
            str(number),
            str(layer.source),
            str(layer.num_attention_heads or ""),
            layer.attention,
            str(layer.intermediate_size or ""),
            layer.feed_forward,
            str(layer.keep_tokens or "all"),
        ]
        for number, layer in enumerate(architecture.layers)
    ]
    first = f"Hidden size {architecture.hidden_size}; word embeddings: {architecture.embedding}."
    if architecture.exit_threshold:
        first += f" A text leaves after the first layer whose classifier is {architecture.exit_threshold:g} sure."
    names = sorted({name for choice in architecture.choices for name in compression(choice).names})
    meanings = (f"- {name}: {(REGISTRY[name].__doc__ or '').splitlines()[0]}" for name in names)
    return "\n\n".join([first, _table(head, rows), "\n".join(meanings)])


def _origin(study: Study, own: bool) -> Iterator[str]:
    """Teacher, data, code and versions."""
    task, teacher, shape = study.task, study.teacher, study.space.teacher
    name = "a BERT that nas made" if teacher.model == "embedded" else Path(teacher.model).name
    tuned = ", fine-tuned on the data first" if teacher.fine_tune else ""
    licence = " ".join(_licence(study).values()) or "unknown, since no card of it says one"
    yield (
        f"Teacher: {name if _is_local(study) else teacher.model} ({shape.num_hidden_layers} layers, hidden size "
        f"{shape.hidden_size}, {shape.num_attention_heads} heads){tuned}. Licence: {licence}."
    )
    train, test = (name if task.hub else Path(name).name for name in (task.train, task.test))
    yield (
        f"Data: {train} and {test}{f' of {task.hub}' if task.hub else ''}, column{'s' if len(task.text) > 1 else ''} "
        f"{' and '.join(task.text)}, label {task.label}. Licence: not known here."
    )
    yield f"Code: {f'{MODELING_FILE} and {INFER_FILE} are' if own else f'{INFER_FILE} is'} of nas, Apache-2.0."
    packages = ("torch", "transformers", "onnx", "onnxruntime")
    yield f"Versions: nas {__version__}, {', '.join(f'{name} {version(name)}' for name in packages)}."


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
