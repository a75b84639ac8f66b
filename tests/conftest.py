"""Fixtures, and quiet libraries."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")

import pytest
import torch
from datasets import disable_progress_bars
from tiny import randomise, write_tiny_study
from transformers import logging as transformers_logging

from nas.model import CompactBertConfig, CompactBertForSequenceClassification
from nas.space import SearchSpace

torch.set_num_threads(1)
disable_progress_bars()
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace.load("tiny")


@pytest.fixture
def config(space: SearchSpace) -> CompactBertConfig:
    return CompactBertConfig(
        attention_head_size=space.teacher.head_size, vocab_size=90, max_position_embeddings=40, num_labels=3
    ).with_architecture(space.largest())


@pytest.fixture
def supernet_weights(config: CompactBertConfig) -> CompactBertForSequenceClassification:
    return randomise(CompactBertForSequenceClassification(config))


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 90, (5, 11), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    mask[3, 4:] = 0
    types = torch.zeros_like(ids)
    types[:, 6:] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@pytest.fixture
def tiny_study(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "tiny")


@pytest.fixture
def nas(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: exit code, standard output, standard error."""
    from nas import cli

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["nas", *arguments])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
