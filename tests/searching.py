"""A small search whose inputs are stored in a folder, so that other processes can load them."""

from __future__ import annotations

from pathlib import Path

from tiny import make_rows, prepare, randomise

from nas.device import Device
from nas.latency.profile import Fit, Profile
from nas.model import CompactBert, CompactBertConfig
from nas.space import SearchSpace
from nas.study import Task


def write_search(folder: Path) -> Path:
    """Write the supernet, the data and the profile of a search of the tiny space. Return the folder."""
    space = SearchSpace.load("tiny")
    config = CompactBertConfig(
        attention_head_size=space.teacher.head_size, vocab_size=90, max_position_embeddings=40, num_labels=2
    ).with_architecture(space.largest())
    randomise(CompactBert(config)).save_pretrained(folder / "supernet")
    make_rows(160, 0).to_parquet(folder / "train.parquet")
    make_rows(20, 1).to_parquet(folder / "test.parquet")
    task = Task(train="train.parquet", test="test.parquet", text=("text",), max_length=16, holdout={"size": 120})
    files = (str(folder / "train.parquet"), str(folder / "test.parquet"))
    prepare(task, *files).save(folder / "data")
    table = {}
    for hidden in space.dimensions.hidden_size:
        scale = hidden / 32
        for choice in ("none", "int8"):
            table[f"ends/{hidden}/{choice}"] = {"128": 0.1 * scale}
        for first_only in ("", "first_"):
            for heads, choice in space.options("attention"):
                cost = scale * heads * (0.1 if choice == "none" else 0.06)
                table[f"{first_only}attention/{hidden}/{heads}/{choice}"] = {"128": cost}
            for size, choice in space.options("feed_forward"):
                cost = scale * size * (0.01 if choice == "none" else 0.006)
                table[f"{first_only}feed_forward/{hidden}/{size}/{choice}"] = {"128": cost}
    error = {"mape": 0.02, "worst": 0.05, "kendall_tau": 0.98, "networks": 24}
    Profile(Device(name="cpu"), {}, table, Fit(0.0, 1.0, 1.0), (1.0,), None, {"p50_ms": 3.2}, 0.1, error).save(
        folder / "profile.json"
    )
    return folder
