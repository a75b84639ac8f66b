"""The model card of an export: a `README.md` with Hugging Face metadata, measured results, usage and provenance.

`write_card` creates the card from `verification.json`, the architecture and the study. The pipeline writes the card
when an export has been verified, and again when measurements from an additional device have been imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load, try_to_load_from_cache
from yaml import YAMLError

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.compression import REGISTRY, Block, compression
from nas.data.unlabelled import Counts
from nas.errors import ExportError
from nas.export.artefact import ARCHITECTURE_FILE, INFER_FILE, ONNX_FILE, VERIFICATION_FILE
from nas.export.publishing import CARD_FILE
from nas.export.standalone import MODELING_FILE
from nas.export.verification import on_each
from nas.files import read_json, write_text
from nas.report.loading import snippets
from nas.report.rendering import fill
from nas.study import Study
from nas.tasks import is_custom, task_kind

_PACKAGES = ("nas", "torch", "transformers", "onnx", "onnxruntime")
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
"""The names of metrics on the Hugging Face hub, if they differ from those in a study."""


def write_card(folder: Path, study: Study) -> None:
    """Write the model card of a verified export into its folder. Raises `ExportError` if a file cannot be read."""
    verification = read_json(folder / VERIFICATION_FILE, ExportError)
    architecture = Architecture.from_json(read_json(folder / ARCHITECTURE_FILE, ExportError))
    labels = list(read_json(folder / "config.json", ExportError).get("id2label", {}).values())
    teacher_facts = verification.get("separate_teacher")
    files = [path.name for path in folder.iterdir()]
    task, is_pair = study.task, len(study.task.text) > 1
    kind = task.variant
    card = fill(
        "nas.report",
        "card.md",
        metadata=_metadata(study, folder.name, verification).to_yaml(),
        name=folder.name,
        study=study,
        found=verification,
        devices=on_each(verification),
        metric_note=kind.metric(task).note,
        usage=kind.usage,
        exits=", ".join(f"{share:.0%}" for share in verification.get("exits") or ()),
        summary=kind.summary("pairs of texts" if is_pair else "texts", labels),
        architecture=architecture,
        methods=_methods(architecture),
        snippets=snippets(folder.name, files, is_pair, kind),
        onnx_file=ONNX_FILE,
        quantised=_quantised_by_batch(architecture),
        batch_sizes={device.name: device.batch_size for device in study.devices},
        compressed=study.compressed_table.capitalize(),
        compressed_name=_name(study.compressed.model, not _is_local(study)),
        licence=" ".join(_licence(study, verification).values()) or "unknown",
        separate_teacher=_name(teacher_facts["model"], bool(teacher_facts["commit"])) if teacher_facts else "",
        sets={key: [_name(name, bool(task.hub)) for name in names] for key, names in task.sets.items()},
        unlabelled=[_name(name, name not in task.unlabelled_files) for name in task.unlabelled],
        unlabelled_counts=Counts(**verification["unlabelled"]).summary() if verification.get("unlabelled") else "",
        code_files=[MODELING_FILE, INFER_FILE] if MODELING_FILE in files else [INFER_FILE],
        versions=[f"{name} {import_module(name).__version__}" for name in _PACKAGES],
    )
    write_text(folder / CARD_FILE, str(ModelCard(card)))


def _metadata(study: Study, name: str, verification: Mapping[str, Any]) -> ModelCardData:
    """Return the metadata at the start of the model card, which the Hugging Face hub reads."""
    task, teacher, kind = study.task, study.compressed.model, task_kind(study.task.kind)
    result = EvalResult(
        task_type=kind.hub_task,
        dataset_type=task.hub or Path(task.test).suffix.removeprefix(".") or task.test,
        dataset_name=task.hub or Path(task.test).name,
        dataset_config=task.config,
        dataset_split=task.test if task.hub else "test",
        dataset_revision=_commit(verification, "task"),
        metric_type=verification["metric"] if is_custom(task.metric) else _METRICS.get(task.metric, task.metric),
        metric_name=verification["metric"],
        metric_value=round(verification["accuracy"], 4),
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
        **(_licence(study, verification) or {"license": "unknown"}),
    )


def _is_local(study: Study) -> bool:
    """Whether the model to compress is a local folder or the built-in model, rather than a hub id."""
    name = study.compressed.model
    return name == "embedded" or name.startswith((".", "/", "~")) or study.resolve(name).is_dir()


def _commit(verification: Mapping[str, Any], table: str) -> str | None:
    """Return the hub commit of the model or data set that the study's table `table` names.

    Return None for local files, and also if `verification` was written by an older version of nas, which did not record
    commits.
    """
    commit: str | None = verification.get("commits", {}).get(table)
    return commit


def _licence(study: Study, verification: Mapping[str, Any]) -> dict[str, Any]:
    """Return the licence fields from the model card of the model to compress.

    The result is empty if that model card is not on this machine, or cannot be read.
    """
    name = study.compressed.model
    if _is_local(study):
        path: Any = study.resolve(name) / CARD_FILE
    else:
        path = try_to_load_from_cache(name, CARD_FILE, revision=_commit(verification, study.compressed_table))
    if not isinstance(path, str | Path) or not Path(path).is_file():
        return {}
    try:
        data = metadata_load(path) or {}
    except (ValueError, YAMLError):
        return {}
    fields = {key: data[key] for key in _LICENCE if data.get(key)}
    return {key: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in fields.items()}


def _methods(architecture: Architecture) -> dict[str, str]:
    """Return the first docstring line of each compression method that a network uses, keyed by method name."""
    names = sorted({name for method in architecture.choices for name in compression(method).names})
    return {name: next(iter((REGISTRY[name].__doc__ or "").strip().splitlines()), "") for name in names}


def _quantised_by_batch(architecture: Architecture) -> list[str]:
    """Return the architecture's compression methods whose quantisation scale depends on all texts of a batch."""
    methods_by_block: list[tuple[Block, str]] = [("embedding", architecture.embedding)]
    methods_by_block += [(block, layer.choice(block)) for layer in architecture.layers for block in LAYER_BLOCKS]
    return sorted({method for block, method in methods_by_block if compression(method).quantises_by_batch(block)})


def _name(source: str, is_on_hub: bool) -> str:
    return source if is_on_hub else Path(source).name
