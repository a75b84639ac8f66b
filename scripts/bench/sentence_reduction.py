"""Layer reduction as in the example of sentence-transformers: keep some layers of an encoder, and distil it.

The example is examples/sentence_transformer/training/distillation/model_distillation_layer_reduction.py in the
repository of sentence-transformers. The learning rate, the batch size, the warm-up and the loss are those of the
example. The training texts come from the study, and the number of steps from the benchmark's option `--steps`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from tracing import Job
from transformers import AutoTokenizer

_BATCH_SIZE, _LEARNING_RATE, _WARM_UP = 64, 1e-4, 0.1


def reduce_layers(job: Job) -> tuple[Path, str]:
    """Return the folder of the distilled student, and its name for the table."""
    from sentence_transformers import SentenceTransformer

    teacher, student = (SentenceTransformer(str(job.teacher), device="cpu") for _ in range(2))
    for model in (teacher, student):
        model.max_seq_length = job.max_length
    kept = keep_layers(student.transformers_model, job.layers)
    if job.steps:
        texts = training_texts(job)
        labels = teacher.encode(texts, batch_size=2 * _BATCH_SIZE, show_progress_bar=False)
        distil(student, Dataset.from_dict({"sentence": texts, "label": labels.tolist()}), job)
    folder = job.folder / "student"
    student.save(str(folder))
    return folder, f"layers {', '.join(map(str, kept))} ({job.steps:,} steps)"


def keep_layers(model: Any, layers: tuple[int, ...]) -> list[int]:
    """Remove all layers of a model of transformers except `layers`, and return the numbers of the layers kept.

    If `layers` is empty, every third layer is kept, as in the example.
    """
    count = model.config.num_hidden_layers
    kept = sorted(layers) or list(range(0, count, 3))
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ModuleList) and len(child) == count:
                setattr(module, name, nn.ModuleList(child[number] for number in kept))
    model.config.num_hidden_layers = len(kept)
    return kept


def training_texts(job: Job) -> list[str]:
    """Return as many texts of the training set as the training needs, in random order.

    The texts are decoded from token ids, because the run stores its training set only as token ids. This set contains
    no text of the search or test set.
    """
    tokenizer = AutoTokenizer.from_pretrained(job.teacher)
    rows = job.train.shuffle(seed=job.seed)
    chosen = rows.select(range(min(job.steps * _BATCH_SIZE, len(rows))))
    return list(tokenizer.batch_decode(chosen["input_ids"][:], skip_special_tokens=True))


def distil(student: Any, rows: Dataset, job: Job) -> None:
    """Train a student to reproduce the embeddings in the column `label` of `rows`."""
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MSELoss

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(job.folder / "training"),
        max_steps=job.steps,
        per_device_train_batch_size=_BATCH_SIZE,
        learning_rate=_LEARNING_RATE,
        warmup_steps=_WARM_UP,
        seed=job.seed,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
    )
    SentenceTransformerTrainer(student, arguments, train_dataset=rows, loss=MSELoss(student)).train()
