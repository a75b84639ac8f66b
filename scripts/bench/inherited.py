"""Accuracy of five uniform sub-networks with weights inherited from the trained supernet, under that of its teacher.

On the search set. Trains the supernet first if it is missing. Made for teachers of six layers.
"""

from __future__ import annotations

import common
from rich.console import Console
from rich.table import Table

from nas.data import TaskData
from nas.evaluate.accuracy import Evaluator
from nas.model import CompactBertForSequenceClassification
from nas.pipeline import train
from nas.pipeline.supernets import load_supernet
from nas.space import Architecture, Layer, Shape

ALL = (0, 1, 2, 3, 4, 5)


def uniform(shape: Shape, layers: tuple[int, ...], width: float = 1.0, hidden_size: int | None = None) -> Architecture:
    """Some layers, a share of all heads and neurons, and a hidden size."""
    heads, neurons = int(shape.num_attention_heads * width), int(shape.intermediate_size * width)
    kept = tuple(Layer(source, heads, neurons) for source in layers)
    return Architecture(hidden_size=hidden_size or shape.hidden_size, layers=kept)


def main() -> None:
    """Measure and print."""
    arguments = common.parser(__doc__).parse_args()
    run = common.run_of(arguments)
    train(run)
    shape = run.study.space.teacher
    chosen = {
        "full width, 6 layers": (uniform(shape, ALL), 0.3),
        "half heads and neurons, 6 layers": (uniform(shape, ALL, 0.5), 0.8),
        "layers 0, 1, 3, 5, full width": (uniform(shape, (0, 1, 3, 5)), 0.8),
        "layers 0, 2, 5, half heads and neurons": (uniform(shape, (0, 2, 5), 0.5), 1.5),
        "hidden 256 of 384, 6 layers": (uniform(shape, ALL, hidden_size=256), 1.5),
    }
    data = TaskData.load(run.data)
    evaluator = Evaluator(load_supernet(run), data.search, run.study.task.metric)
    teacher = evaluator.accuracy_of(CompactBertForSequenceClassification.from_pretrained(run.ordered_teacher))
    table = Table(
        title=f"{run.study.task.metric} on {len(data.search):,} examples of the search set, inherited weights"
    )
    for column in ("sub-network", "value", "under the teacher", "target"):
        table.add_column(column, justify="left" if column == "sub-network" else "right")
    table.add_row("teacher", f"{teacher:.4f}", "", "")
    under = {}
    for name, (architecture, target) in chosen.items():
        value = evaluator.evaluate(architecture).accuracy
        under[name] = round(100 * (teacher - value), 2)
        table.add_row(name, f"{value:.4f}", f"{under[name]:.2f} points", f"{target}")
    Console().print(table)
    common.finish(arguments, {"teacher": teacher, "points_under_teacher": under})


if __name__ == "__main__":
    main()
