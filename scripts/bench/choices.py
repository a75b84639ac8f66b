"""Measure the loss of accuracy and the savings of time and size for each compression method and each kind of block.

For each combination of a method and a kind of block, the benchmark compresses all blocks of this kind in the teacher,
whose units are ordered by importance. It measures the accuracy on the search set without training the compressed
network. It also measures the time of one block of the teacher's size on the study's first device, at the device's
longest text length. If the teacher is missing, the benchmark first prepares it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import common
from rich.console import Console

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.compression import BLOCKS, Block, compression
from nas.evaluate.accuracy import Evaluator
from nas.latency.measure import measure
from nas.latency.profile import part_name
from nas.latency.profiling import COPIES, ProfileRecipe
from nas.model.sizes import stored_mb
from nas.pipeline import Run
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.data import metric_of
from nas.pipeline.profiles import devices, texts
from nas.pipeline.supernets import order, ranking_batches
from nas.pipeline.teachers import load_teacher, teacher_config
from nas.space import SearchSpace
from nas.supernet import BertSupernet, SupernetWeights

METHODS = ("int8", "int4", "low_rank({})", "low_rank({})+int8", "sparse(2:4)", "sparse(0.5)", "sparse(0.5)+int8")
RANKS = (1 / 6, 1 / 4, 1 / 3)
"""The ranks of `low_rank`, as shares of the hidden size."""


def measure_all(run: Run, _: argparse.Namespace) -> dict[str, Any]:
    """Measure each method for each kind of block, print a table, and return accuracies, milliseconds and megabytes."""
    data = prepare_teacher(run)
    config, space = teacher_config(run), _space_of_teacher_size(run.study.space)
    teacher = load_teacher(run)
    order(run, teacher)
    weights = SupernetWeights.of(teacher, space.dimensions.hidden_size, space.compression, False)
    weights.fit(ranking_batches(run, "Fitting"))
    evaluator = Evaluator(BertSupernet(weights), data.search, metric_of(run), raced=False)
    latency = _block_ms(run, space)
    teacher_accuracy = evaluator.evaluate(space.largest()).accuracy
    results: dict[str, dict[str, Any]] = {}
    for block in BLOCKS:
        for choice in getattr(space.compression, block):
            architecture = _with_method(space.largest(), block, choice)
            results[f"{block} {choice}"] = {
                "accuracy": evaluator.evaluate(architecture).accuracy,
                "block_ms": latency.get((block, choice)),
                "size_mb": stored_mb(config.with_architecture(architecture)),
            }
    title = f"one compression method in all blocks of a kind, {len(data.search):,} examples"
    table = common.table(title, "", "points lost", "ms per block", "MB")
    for name, result in results.items():
        block_ms = "" if result["block_ms"] is None else f"{result['block_ms']:.3f}"
        table.add_row(
            name, f"{100 * (teacher_accuracy - result['accuracy']):.2f}", block_ms, f"{result['size_mb']:.1f}"
        )
    Console().print(table)
    return {"teacher": teacher_accuracy, "choices": results}


def _space_of_teacher_size(space: SearchSpace) -> SearchSpace:
    """Return a search space with only the teacher's sizes and every compression method that supports these sizes."""
    shape = space.teacher
    specs = ["none"]
    for form in METHODS:
        specs += [form.format(max(1, round(share * shape.hidden_size))) for share in RANKS] if "{}" in form else [form]
    methods = {
        block: [spec for spec in specs if block in (choice := compression(spec)).blocks and _suits(choice, shape)]
        for block in BLOCKS
    }
    sizes = {"layers": [shape.num_hidden_layers]} | {
        key: [getattr(shape, key)] for key in ("hidden_size", "num_attention_heads", "intermediate_size")
    }
    return SearchSpace.model_validate(space.model_dump() | {"dimensions": sizes, "compression": methods})


def _suits(choice: Any, shape: Any) -> bool:
    return all(choice.suits(size, shape.hidden_size) for size in (shape.hidden_size, shape.intermediate_size))


def _with_method(architecture: Architecture, block: Block, choice: str) -> Architecture:
    if block == "embedding":
        return replace(architecture, embedding=choice)
    layers = (layer.with_option(block, (layer.option(block)[0], choice)) for layer in architecture.layers)
    return replace(architecture, layers=tuple(layers))


def _block_ms(run: Run, space: SearchSpace) -> dict[tuple[str, str], float]:
    """Return the latency of one block, in ms, keyed by the kind of block and the method.

    Methods that the runtime does not support are left out.
    """
    recipe = ProfileRecipe(devices(run)[0], space, teacher_config(run), run.study.seed, texts=texts(run))
    shape, tokens = space.teacher, max(recipe.tokens)
    sizes = {"attention": shape.num_attention_heads, "feed_forward": shape.intermediate_size}
    names = {
        (block, choice): f"{part_name(block, shape.hidden_size, sizes[block], choice, first_only=False)}@{tokens}"
        for block in LAYER_BLOCKS
        for choice in getattr(space.compression, block)
        if compression(choice).runs_on(recipe.device.runtime, recipe.device.processor)
    }
    blocks = recipe.blocks()
    chosen = {name: blocks[name] for name in names.values()}
    records = measure(recipe.device, chosen, 12, "Measuring blocks", recipe.texts, dict.fromkeys(chosen, tokens))
    return {key: records[name].p50_ms / COPIES for key, name in names.items()}


if __name__ == "__main__":
    common.main(common.parser(__doc__).parse_args(), measure_all)
