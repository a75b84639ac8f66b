"""With `prune_vocabulary`, the teacher of a run gives the same logits as before on texts whose pieces are kept."""

from __future__ import annotations

import pytest
import torch
from multilingual import KINDS, SENTENCES
from tiny import POSITIONS, TEACHERS, WORDS, randomise, write_tiny_study
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tolerance import assert_same
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from nas.data import TaskData
from nas.model.tokenizer import load_tokenizer
from nas.pipeline import Run
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.teachers import load_teacher
from nas.study import Study

COUNTED = ("roberta", "xlm-roberta", "camembert")
"""Families whose positions are counted from `pad_token_id`."""


def _wordpiece(texts, size):
    """Return a tokenizer with special tokens after the words, and with unused pieces before and after them."""
    digits = [str(digit) for digit in range(10)]
    known = ["w", *digits, *(f"##{digit}" for digit in digits), *WORDS]
    pieces = ["00", "##01", *known, "[UNK]", "[CLS]", "[SEP]", "[PAD]", "11", "##10"]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(*((name, numbers[name]) for name in ("[SEP]", "[CLS]")))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.mark.parametrize(
    ("family", "tokenizer"),
    [
        ("bert", _wordpiece),
        ("roberta", _wordpiece),
        ("roberta", KINDS["roberta"]),
        ("xlm-roberta", KINDS["xlm-roberta"]),
        ("camembert", KINDS["camembert"]),
        ("mpnet", _wordpiece),
        ("modernbert", KINDS["modernbert"]),
    ],
)
def test_pruning_the_vocabulary_does_not_change_the_teachers_logits(family, tokenizer, tmp_path):
    """This includes families whose positions are counted from the id of the padding token, which pruning changes."""
    path = write_tiny_study(tmp_path / "tiny")
    folder = path.parent / "teacher"
    whole = tokenizer([*(text for texts in SENTENCES.values() for text in texts), " ".join(WORDS)], 700)
    settings = TEACHERS.get(family, TEACHERS["roberta"])[1]
    positions = POSITIONS + (whole.pad_token_id + 1 if family in COUNTED else 2)
    own = {"max_position_embeddings": positions, "vocab_size": len(whole), "pad_token_id": whole.pad_token_id}
    config = AutoConfig.for_model(family, **settings | own)
    model = randomise(AutoModelForSequenceClassification.from_config(config))
    whole.save_pretrained(folder)
    model.save_pretrained(folder)
    given = path.read_text().replace('model = "./teacher"', 'model = "./teacher"\nprune_vocabulary = true')
    path.write_text("".join(line for line in given.splitlines(keepends=True) if not line.startswith("fine_tune")))
    run = Run.of(Study.load(path), tmp_path / "runs")
    data = prepare_teacher(run)
    teacher, pruned = load_teacher(run), load_tokenizer(run.teacher)
    assert teacher.config.vocab_size == len(pruned) < len(whole)
    assert max(max(row) for split in data.splits.values() for row in split["input_ids"]) < len(pruned)
    texts = ["w1 w12 w59", "w3", "w7 w8 w30 w31 w0"]
    before, after = (each(texts, padding=True, return_tensors="pt") for each in (whole, pruned))
    with torch.no_grad():
        expected = model(before["input_ids"], before["attention_mask"]).logits
        assert_same(teacher(after["input_ids"], after["attention_mask"]).logits, expected)
    assert TaskData.load(run.data).num_labels == 2
