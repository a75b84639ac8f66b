"""Measure the accuracy of sub-networks of the fine-tuned teacher for several orders of its units, without training.

The benchmark compares three orders of units: the order in the checkpoint, the order by weight magnitude, and the order
by Taylor importance that `nas train` uses. Accuracy is measured on the search set with three numbers of heads and
neurons, and with all hidden sizes of the search space except the largest. `Taylor, made up` also compensates for the
missing hidden units, as `nas train` does before training. If the teacher is missing, the benchmark first prepares it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import common
from rich.console import Console

from nas.architecture import Architecture
from nas.evaluate.accuracy import Evaluator
from nas.model import CompactBert
from nas.pipeline import Run
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.data import metric_of
from nas.pipeline.supernets import order, untrained
from nas.pipeline.teachers import load_teacher
from nas.space import SearchSpace
from nas.supernet import BertSupernet
from nas.supernet.importance import magnitude, reorder

SHARES = (3 / 4, 1 / 2, 1 / 4)


def narrowed(space: SearchSpace) -> dict[str, Architecture]:
    """Return architectures with all layers, keyed by name.

    Some have only a share of the heads and neurons, and others have a smaller hidden size.
    """
    largest, shape, architectures = space.largest(), space.teacher, {}
    for share in SHARES:
        heads, neurons = round(shape.num_attention_heads * share), round(shape.intermediate_size * share)
        layers = (replace(item, num_attention_heads=heads, intermediate_size=neurons) for item in largest.layers)
        architectures[f"{heads} heads, {neurons} neurons"] = replace(largest, layers=tuple(layers))
    for size in space.dimensions.hidden_size[:-1]:
        architectures[f"hidden_size {size}"] = replace(largest, hidden_size=size)
    return architectures


def measure(run: Run, _: argparse.Namespace) -> dict[str, Any]:
    """Measure the accuracies, print a table, and return the accuracies, keyed first by order and then by width."""
    data = prepare_teacher(run)
    orders: dict[str, Callable[[CompactBert], None]] = {
        "unordered": lambda model: None,
        "magnitude": lambda model: reorder(model, magnitude(model)),
        "Taylor": lambda model: order(run, model),
        "Taylor, made up": lambda model: order(run, model),
    }
    accuracy: dict[str, dict[str, float]] = {}
    for name, put_in_order in orders.items():
        model = load_teacher(run)
        put_in_order(model)
        weights = untrained(run, model) if name.endswith("made up") else model
        evaluator = Evaluator(BertSupernet(weights), data.search, metric_of(run))
        sub_networks = {"whole teacher": run.study.space.largest()} | narrowed(run.study.space)
        accuracy[name] = {
            width: evaluator.evaluate(architecture).accuracy for width, architecture in sub_networks.items()
        }
    table = common.table(f"{metric_of(run).label} on {len(data.search):,} examples of the search set", "", *orders)
    for width in accuracy["Taylor"]:
        table.add_row(width, *(f"{accuracy[name][width]:.4f}" for name in orders))
    Console().print(table)
    return {"accuracy": accuracy}


if __name__ == "__main__":
    common.main(common.parser(__doc__).parse_args(), measure)
