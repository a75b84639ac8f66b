"""The model card of an export: a `README.md` with Hugging Face metadata, measured results, usage and provenance.

`write_card` makes it from `verification.json`, the architecture and the study. It is called when an export has been
verified, and again when measurements from another device are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load, try_to_load_from_cache
from yaml import YAMLError

from nas import __version__
from nas.architecture import LAYER_BLOCKS, Architecture
from nas.budget import Budget
from nas.compression import REGISTRY, Block, compression
from nas.data.unlabelled import Counts
from nas.errors import ExportError
from nas.export.artefact import ARCHITECTURE_FILE, INFER_FILE, ONNX_FILE, VERIFICATION_FILE
from nas.export.publishing import CARD_FILE
from nas.export.standalone import MODELING_FILE
from nas.export.verification import on_each
from nas.files import read_json, write_text
from nas.report.loading import snippets
from nas.report.numbers import accuracies, conditions, limits, milliseconds, percent, score, significant, times, verdict
from nas.study import Study
from nas.tasks import is_custom, task_kind

_LICENCE = ("license", "license_name", "license_link")
_METRICS = {
    "spearman": "spearmanr",
    "pearson": "pearsonr",
    "f1_macro": "f1",
    "f1_micro": "f1",
    "span_f1": "f1",
    "ndcg@10": "ndcg_at_10",
    "mrr@10": "mrr_at_10",
}
"""Names of metrics on the Hugging Face hub, where they differ from those of a study."""
_BODY = """
# {title}

{summary}

{figures}

{measured}

## Architecture

{architecture}

## Usage

Paths are relative to the folder that contains this model's folder.

{loading}

## Provenance

{origin}
"""


def write_card(folder: Path, study: Study) -> None:
    """Write the model card of a verified export into its folder. Raises `ExportError` if a file cannot be read."""
    found = read_json(folder / VERIFICATION_FILE, ExportError)
    architecture = Architecture.from_json(read_json(folder / ARCHITECTURE_FILE, ExportError))
    labels = list(read_json(folder / "config.json", ExportError).get("id2label", {}).values())
    body = _BODY.format(
        title=f"{study.name}: {folder.name}",
        summary=_summary(study, found, labels),
        figures=_table(["", "this model", "teacher"], _metrics(found)),
        measured=_measured(study, found),
        architecture=_architecture(architecture),
        loading="\n\n".join(_loading(study, folder, found["device"], architecture)),
        origin="\n".join(f"- {line}" for line in _origin(study, found, (folder / MODELING_FILE).exists())),
    )
    data = _metadata(study, folder.name, found)
    write_text(folder / CARD_FILE, str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}")))


def _metadata(study: Study, name: str, found: Mapping[str, Any]) -> ModelCardData:
    """Return the metadata block that the Hugging Face hub reads."""
    task, teacher, kind = study.task, study.compressed.model, task_kind(study.task.kind)
    result = EvalResult(
        task_type=kind.hub_task,
        dataset_type=task.hub or Path(task.test).suffix.removeprefix(".") or task.test,
        dataset_name=task.hub or Path(task.test).name,
        dataset_config=task.config,
        dataset_split=task.test if task.hub else "test",
        dataset_revision=_commit(found, "task"),
        metric_type=found["metric"] if is_custom(task.metric) else _METRICS.get(task.metric, task.metric),
        metric_name=found["metric"],
        metric_value=round(found["accuracy"], 4),
    )
    return ModelCardData(
        model_name=name,
        base_model=None if _is_local(study) else teacher,
        datasets=[task.hub] if task.hub else None,
        metrics=[result.metric_type],
        eval_results=[result],
        library_name=kind.hub_library,
        pipeline_tag=kind.hub_task,
        tags=["neural-architecture-search", "compression", "onnx"],
        **(_licence(study, found) or {"license": "unknown"}),
    )


def _compressed(study: Study) -> str:
    """Return the role in the study of the model that was compressed: "Student" or "Teacher"."""
    return "Student" if study.student else "Teacher"


def _is_local(study: Study) -> bool:
    """Whether the compressed model is a local folder or the built-in model, rather than a hub id."""
    name = study.compressed.model
    return name == "embedded" or name.startswith((".", "/", "~")) or study.resolve(name).is_dir()


def _commit(found: Mapping[str, Any], table: str) -> str | None:
    """Return the hub commit of the model or data set in a table of the study.

    None for local files, and for verifications by older versions, which did not record it.
    """
    commit: str | None = found.get("commits", {}).get(table)
    return commit


def _at(found: Mapping[str, Any], table: str) -> str:
    commit = _commit(found, table)
    return f" at commit {commit}" if commit else ""


def _licence(study: Study, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the licence fields of the compressed model's own card; empty if that card is not on this machine."""
    name = study.compressed.model
    if _is_local(study):
        path: Any = study.resolve(name) / CARD_FILE
    else:
        path = try_to_load_from_cache(name, CARD_FILE, revision=_commit(found, _compressed(study).lower()))
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return {}
    try:
        data = metadata_load(path) or {}
    except (ValueError, YAMLError):
        return {}
    given = {key: data[key] for key in _LICENCE if data.get(key)}
    return {key: ", ".join(map(str, said)) if isinstance(said, list) else str(said) for key, said in given.items()}


def _summary(study: Study, found: Mapping[str, Any], labels: list[str]) -> str:
    texts = "pairs of texts" if len(study.task.text) > 1 else "texts"
    what = task_kind(study.task.kind).summary(texts, labels)
    faster = "" if found["speed_up"] is None else f", {times(found['speed_up'])} as fast as its teacher"
    return (
        f"{what}{faster}. This is a compact BERT whose layers differ in size and compression method. It was found "
        "by a neural architecture search with measured latencies (`nas`)."
    )


def _metrics(found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the rows of the table of results: name, this model's value, the teacher's value."""
    yield [
        f"{found['metric']} on the test set",
        score(found["accuracy"], found["accuracy_standard_error"]),
        score(found["teacher_accuracy"]),
    ]
    for name, own in on_each(found).items():
        for key, word in (("p50_ms", "median"), ("p95_ms", "95th percentile"), ("expected_ms", "mean")):
            teacher = own.get("teacher_latency", {}).get(key)
            yield [f"latency, device {name}, {word}", milliseconds(own[key]), milliseconds(teacher)]
    if (same := found.get("agreement_with_hugging_face")) is not None:
        yield ["texts with the same answer from the served file and from this folder in torch", percent(same), ""]
    yield ["size of the served file", f"{significant(found['size_mb'])} MB", ""]
    yield ["parameters", f"{found['params']:,}", ""]


def _measured(study: Study, found: Mapping[str, Any]) -> str:
    """Return how the results were measured, the budget and whether it was met, as paragraphs."""
    error = " (± standard error)" if found["accuracy_standard_error"] else ""
    groups = f" ({found['judged']})" if "judged" in found else ""
    lines = [
        f"Accuracy{error}: measured on {found['test_examples']:,} test examples{groups} that were not used for any "
        "decision. None of them is among the training rows of this study. "
        f"Texts were truncated to {study.task.max_length} tokens.",
    ]
    for name, own in on_each(found).items():
        if "latency" in own:
            how = conditions(own["latency"]["device"], own["environment"])
            lines.append(
                f"Latency, device {name}: {how}. A dedicated process timed the teacher and this model alternately."
            )
    if found["budget"]:
        budget = Budget.model_validate(found["budget"])
        asked = ", ".join(limits(budget, {"p50_ms": found["teacher_p50_ms"]} if found["teacher_p50_ms"] else {}))
        lines.append(f"Budget: {asked}. Met: {verdict(found['met'])}.")
    if (floor := found.get("floor")) is not None:
        lines.append(
            f"The accuracy floor is {score(floor)} on the search set. This model has "
            f"{score(found['search_accuracy'])} there, and the teacher {score(found['teacher_search_accuracy'])}."
        )
    for name, own in on_each(found).items():
        if own.get("agrees") is False:
            lines.append(
                f"Device {name}: the served file and this folder's model in torch give the same answer for only "
                f"{percent(own['agreement_with_hugging_face'])} of the texts. The results above were measured on the "
                "served file, so use that file."
            )
    if found.get("exits"):
        shares = ", ".join(f"{share:.0%}" for share in found["exits"])
        lines.append(f"Shares of texts that exit after each layer: {shares}.")
    return "\n\n".join(lines)


def _architecture(architecture: Architecture) -> str:
    """Return a table of the layers, and what the compression methods do."""
    head = ["layer", "teacher's layer", "heads", "attention", "intermediate size", "feed-forward", "tokens kept"]
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
    first = f"Hidden size {architecture.hidden_size}; token embeddings: {architecture.embedding}."
    if architecture.exit_threshold:
        first += f" A text exits after the first layer with a confidence of at least {architecture.exit_threshold:g}."
    names = sorted({name for choice in architecture.choices for name in compression(choice).names})
    return "\n\n".join([first, _table(head, rows), "\n".join(map(_meaning, names))])


def _meaning(name: str) -> str:
    about = (REGISTRY[name].__doc__ or "").strip()
    return f"- {name}: {about.splitlines()[0]}" if about else f"- {name}"


def _loading(study: Study, folder: Path, device: str, architecture: Architecture) -> Iterator[str]:
    """Yield paragraphs on usage: code that loads the model, and how to batch texts if quantisation depends on it."""
    files = [path.name for path in folder.iterdir()]
    kind = task_kind(study.task.kind)
    if kind.usage:
        yield kind.usage
    for title, language, code in snippets(folder.name, files, len(study.task.text) > 1, kind):
        yield f"{title}\n\n```{language}\n{code}\n```"
    yield (
        f'Optimum, sentence-transformers (`backend="onnx"`), text-embeddings-inference and transformers.js find '
        f"`{ONNX_FILE}` automatically."
    )
    blocks: list[tuple[Block, str]] = [("embedding", architecture.embedding)]
    blocks += [(block, layer.choice(block)) for layer in architecture.layers for block in LAYER_BLOCKS]
    quantised = sorted({choice for block, choice in blocks if compression(choice).quantises_by_batch(block)})
    if quantised:
        size = next(known.batch_size for known in study.devices if known.name == device)
        served = "serve texts one by one" if size == 1 else f"serve {size} texts of equal length at a time"
        kinds = " or ".join(quantised)
        yield (
            f"Blocks compressed with {kinds} are quantised with a scale that depends on the whole batch: {served} to "
            "get the accuracy above."
        )


def _origin(study: Study, found: Mapping[str, Any], own: bool) -> Iterator[str]:
    """Yield the items of the provenance list: models, data, code and versions, with licences."""
    task, teacher, shape = study.task, study.compressed, study.space.teacher
    name = "a BERT trained from scratch by nas" if teacher.model == "embedded" else Path(teacher.model).name
    tuned = ", fine-tuned on the data first" if teacher.fine_tune else ""
    what = _compressed(study)
    licence = " ".join(_licence(study, found).values()) or "not known here"
    name = f"{name if _is_local(study) else teacher.model}{_at(found, what.lower())}"
    yield (
        f"{what}: {name} ({shape.num_hidden_layers} layers, hidden size "
        f"{shape.hidden_size}, {shape.num_attention_heads} heads){tuned}. Licence: {licence}."
    )
    if about := found.get("separate_teacher"):
        given = about["model"] if about["commit"] else Path(about["model"]).name
        trained = ", fine-tuned on the data first" if about["fine_tuned_here"] else ""
        yield (
            f"Teacher: {given}{_at(found, 'teacher')}{trained}; {accuracies(about)}. "
            'This model was distilled from it. In the table above, "teacher" refers to the uncompressed student.'
        )
    sets = {key: [name if task.hub else Path(name).name for name in names] for key, names in task.sets.items()}
    hub = f" of {task.hub}{_at(found, 'task')}" if task.hub else ""
    yield (
        f"Data: {', '.join(sets['train'])} and {sets['test'][0]}{hub}, column{'s' if len(task.text) > 1 else ''} "
        f"{' and '.join(task.text)}, label {', '.join(task.label_columns)}. Licence: not known here."
    )
    if counts := found.get("unlabelled"):
        more = ", ".join(Path(name).name if name in task.unlabelled_files else name for name in task.unlabelled)
        said = Counts(**counts).summary()
        yield f"Unlabelled text for the distillation: {more}; {said}. Licence: not known here."
    yield f"Code: {f'{MODELING_FILE} and {INFER_FILE} are' if own else f'{INFER_FILE} is'} from nas, Apache-2.0."
    packages = ("torch", "transformers", "onnx", "onnxruntime")
    yield f"Versions: nas {__version__}, {', '.join(f'{name} {import_module(name).__version__}' for name in packages)}."


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
