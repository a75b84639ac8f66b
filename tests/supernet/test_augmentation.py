"""The expected share of tokens is replaced, reproducibly, by tokens of the training rows."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from nas.supernet.augmentation import TokenReplacement

CLS, SEP, PAD = 2, 3, 0
TRAIN = Dataset.from_dict({"input_ids": [[CLS, 10, 10, 10, 11, SEP], [CLS, 10, 12, SEP]]})


def _batch(texts, length=24):
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((texts, length), PAD)
    ids[:, : length - 4] = torch.randint(50, 90, (texts, length - 4), generator=generator)
    ids[:, 0], ids[:, length - 5] = CLS, SEP
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def _replace(share=0.2, seed=0):
    return TokenReplacement(TRAIN, (CLS, SEP, PAD), share, seed)


def test_the_given_share_of_tokens_is_replaced_by_tokens_drawn_from_the_training_rows():
    batch = _batch(3000)
    found = _replace()(batch, step=7)["input_ids"]
    changed = found != batch["input_ids"]
    words = ~torch.isin(batch["input_ids"], torch.tensor([CLS, SEP, PAD]))
    assert not changed[~words].any()
    assert changed[words].float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (found[changed] == 10).float().mean().item() == pytest.approx(4 / 6, abs=0.02)
    shares = changed.sum(dim=1) / words.sum(dim=1)
    assert shares.min() == 0.0 and 0.4 < shares.max() < 0.8  # the expected share of a text is drawn from 0 to 0.4


def test_the_replacements_in_a_text_depend_only_on_seed_step_and_text():
    batch = _batch(8)
    whole = _replace()(batch, step=3)["input_ids"]
    half = {name: value[4:] for name, value in batch.items()}
    assert torch.equal(_replace()(half, step=3)["input_ids"], whole[4:])
    padded = {name: torch.nn.functional.pad(value, (0, 6)) for name, value in batch.items()}
    assert torch.equal(_replace()(padded, step=3)["input_ids"][:, :24], whole)
    assert not torch.equal(_replace()(batch, step=4)["input_ids"], whole)
    assert not torch.equal(_replace(seed=1)(batch, step=3)["input_ids"], whole)
    assert torch.equal(batch["input_ids"], _batch(8)["input_ids"])
