"""Measure how many points of accuracy sub-networks of the trained supernet lose compared with the teacher.

All layers of a sub-network have the same size. Sub-networks with all layers are evaluated on the search set at full
width, at half width and at the smallest hidden size. Other sub-networks have only some layers, and the search space
defines several sets of layers. Each set with two thirds of the layers is evaluated at full width, and each set with
half of the layers is evaluated at half width. If the supernet is not trained yet, the benchmark first trains it.
"""

from __future__ import annotations

import argparse
from typing import Any

import common
from rich.console import Console

from nas.architecture import Architecture, Layer
from nas.evaluate.accuracy import Evaluator
from nas.pipeline import Run, train
from nas.pipeline.data import metric_of, splits
from nas.pipeline.supernets import load_ordered
from nas.space import Shape
from nas.supernet import BertSupernet


def uniform(shape: Shape, layers: tuple[int, ...], width: float = 1.0, hidden_size: int | None = None) -> Architecture:
    """Return an architecture with the layers `layers`.

    Each layer has the share `width` of the teacher's heads and neurons.
    """
    heads, neurons = int(shape.num_attention_heads * width), int(shape.intermediate_size * width)
    kept = tuple(Layer(source, heads, neurons) for source in layers)
    return Architecture(hidden_size=hidden_size or shape.hidden_size, layers=kept)


def measure(run: Run, _: argparse.Namespace) -> dict[str, Any]:
    """Evaluate all sub-networks. Return the accuracy of the teacher and the points that each sub-network loses."""
    train(run)
    shape, space = run.study.space.teacher, run.study.space
    total, narrow = shape.num_hidden_layers, space.dimensions.hidden_size[0]
    all_layers = tuple(range(total))
    chosen = {
        "full width": (uniform(shape, all_layers), 0.3),
        "half width": (uniform(shape, all_layers, 0.5), 0.8),
        f"hidden_size {narrow}": (uniform(shape, all_layers, hidden_size=narrow), 1.5),
    }
    for kept in space.layer_sets:
        name = f"layers {', '.join(map(str, kept))}"
        if len(kept) == total * 2 // 3:
            chosen[name] = (uniform(shape, kept), 0.8)
        elif len(kept) == total // 2:
            chosen[f"{name}, half width"] = (uniform(shape, kept, 0.5), 1.5)
    search_set = splits(run).search
    evaluator = Evaluator(BertSupernet.load(run.supernet), search_set, metric_of(run))
    teacher = evaluator.accuracy_of(load_ordered(run))
    title = f"{metric_of(run).label} on {len(search_set):,} examples of the search set, inherited weights"
    table = common.table(title, "sub-network", "value", "below the teacher", "target")
    table.add_row("teacher", f"{teacher:.4f}", "", "")
    points_below = {}
    for name, (architecture, target) in chosen.items():
        value = evaluator.evaluate(architecture).accuracy
        points_below[name] = round(100 * (teacher - value), 2)
        table.add_row(name, f"{value:.4f}", f"{points_below[name]:.2f} points", f"{target}")
    Console().print(table)
    return {"teacher": teacher, "points_under_teacher": points_below}


if __name__ == "__main__":
    common.main(common.parser(__doc__).parse_args(), measure)
