"""Sub-networks can be called, trained and saved like the sequence classifiers of transformers."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import TEACHERS, forbid_fused_attention, make_tokenizer, mixed_space, named_architectures, randomise
from tolerance import assert_same
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from nas.architecture import compress_all
from nas.export.artefact import write_artefact
from nas.export.standalone import MODELING_FILE
from nas.model import CompactBert
from nas.model.families import family_of
from nas.model.stock import compact_config, from_stock
from nas.supernet import SupernetWeights

LARGEST = mixed_space().largest()
FIRST, *OTHERS = LARGEST.layers
ARCHITECTURES = {
    "int8": compress_all(LARGEST, "int8"),
    "int4": replace(LARGEST, embedding="int4", layers=tuple(replace(x, feed_forward="int4") for x in LARGEST.layers)),
    "low rank and sparse": replace(
        LARGEST,
        embedding="low_rank(8)+int8",
        layers=tuple(replace(x, attention="sparse(0.5)", feed_forward="low_rank(6)+int8") for x in LARGEST.layers),
    ),
    "exits": replace(compress_all(LARGEST, "int8"), exit_threshold=0.6),
    "drops tokens": replace(LARGEST, layers=(replace(FIRST, feed_forward="int8", keep_tokens=5), *OTHERS)),
    **{name: named_architectures()[name] for name in ("borrows in the last layer", "attends never")},
}
ALL = pytest.mark.parametrize("name", ARCHITECTURES)
KINDS = pytest.mark.parametrize("teacher_kind", TEACHERS)


def _model(config, name="int8"):
    """Return a random network whose padding token has a row of zeros, as after training."""
    torch.manual_seed(0)
    model = randomise(CompactBert(config.with_architecture(ARCHITECTURES[name])), scale=0.2)
    table = model.get_input_embeddings()
    with torch.no_grad():
        getattr(table, table.compression.writes)[config.pad_token_id].zero_()
    return model


@ALL
@torch.no_grad()
def test_the_form_of_a_call_does_not_change_the_logits(name, config, batch):
    model = _model(config, name)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    rest = {key: value for key, value in batch.items() if key != "input_ids"}
    expected = model(**batch)
    assert list(expected) == ["logits"]
    found = [
        model(**batch, return_dict=False)[0],
        model(**batch, output_attentions=False).logits,
        model(**batch, output_attentions=True, output_hidden_states=True).logits,
        model(inputs_embeds=model.get_input_embeddings()(ids), **rest).logits,
        model(**batch, position_ids=torch.arange(ids.shape[1]).expand_as(ids)).logits,
        model(**batch | {"attention_mask": mask.bool()}).logits,
        model(**batch, num_items_in_batch=5).logits,
        copy.deepcopy(model)(**batch).logits,
        pickle.loads(pickle.dumps(model))(**batch).logits,
    ]
    for logits in found:
        assert_same(logits, expected.logits, "int8")


@ALL
@torch.no_grad()
def test_attention_can_be_computed_without_the_fused_operator(name, config, batch, monkeypatch, tmp_path):
    model = _model(config, name)
    expected = model(**batch).logits
    model.save_pretrained(tmp_path)
    eager = CompactBert.from_pretrained(tmp_path, attn_implementation="eager").eval()
    forbid_fused_attention(monkeypatch)
    assert_same(eager(**batch).logits, expected, "int8")


@KINDS
@torch.no_grad()
def test_attention_of_every_family_can_be_computed_without_the_fused_operator(teacher, batch, monkeypatch):
    model = from_stock(teacher)
    expected = model(**batch).logits
    model.config._attn_implementation = "eager"
    forbid_fused_attention(monkeypatch)
    assert_same(model(**batch).logits, expected)


@pytest.mark.parametrize("name", ["int8", "low rank and sparse"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_a_network_can_be_traced(name, config, batch):
    model = _model(config, name)
    inputs = (batch["input_ids"], batch["attention_mask"])
    traced = torch.jit.trace(model, inputs, strict=False)
    assert_same(traced(*inputs)["logits"], model(*inputs).logits)


def test_a_network_without_its_head_returns_the_input_of_the_last_layer(config, batch):
    model = _model(config)
    for values in (model.bert(**batch).pooler_output, model.bert(**batch, return_dict=False)[1]):
        assert_same(model.classifier(values), model(**batch).logits)


@ALL
@torch.no_grad()
def test_hidden_states_and_attention_weights_cover_all_tokens_that_are_not_dropped(name, config, batch):
    """The attention weights of each token sum to one, and padding gets no attention."""
    model = _model(config, name)
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    kept = [11, 5, 5, 5] if name == "drops tokens" else [11] * 4  # the batch has 5 texts of 11 tokens
    assert [state.shape for state in output.hidden_states] == [(5, count, 32) for count in kept]
    for layer, count, weights in zip(model.config.architecture.resolved, kept, output.attentions, strict=False):
        assert (weights is None) == (not layer.num_attention_heads)
        if weights is not None:
            assert weights.shape == (5, layer.num_attention_heads, count, count)
            assert_same(weights.sum(dim=-1), torch.ones(weights.shape[:3]))
    if output.attentions[0] is not None:
        padding = (batch["attention_mask"] == 0)[:, None, None, :].expand_as(output.attentions[0])
        assert (output.attentions[0][padding] == 0).all() and (output.attentions[0][~padding] > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@ALL
@torch.no_grad()
def test_half_precision_is_close_to_single_precision_and_finite(name, dtype, config, batch):
    """This includes texts that consist only of padding."""
    model = _model(config, name)
    half = copy.deepcopy(model).to(dtype)
    logits = half(**batch).logits
    assert logits.dtype == dtype
    if name != "drops tokens":  # rounding can change which tokens are kept
        error = (logits.float() - model(**batch).logits).abs().mean()
        assert error < 0.1 * model(**batch).logits.std()
    padding = {**batch, "attention_mask": torch.zeros_like(batch["attention_mask"])}
    assert half(**padding).logits.isfinite().all() and half(**padding, output_attentions=True).logits.isfinite().all()


class _Pooled(nn.Module):
    """An encoder that always returns the given pooled output."""

    def __init__(self, pooled):
        super().__init__()
        self.pooled = pooled

    def forward(self, *_, **__):
        return BaseModelOutputWithPooling(pooler_output=self.pooled, last_hidden_state=self.pooled)


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        (3, torch.tensor([0, 2, 1, 0, 1])),
        (3, torch.tensor([[0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 0, 1]]).float()),
        (1, torch.tensor([0.5, 2.0, -1.0, 0.0, 1.0])),
    ],
)
def test_the_loss_equals_that_of_transformers_own_class(outputs, labels, teacher, batch):
    model = _model(compact_config(teacher.config))
    logits = model(**batch).logits
    stock = BertForSequenceClassification(copy.deepcopy(teacher.config))
    stock.dropout = stock.classifier = nn.Identity()
    stock.bert = _Pooled(logits)
    expected = stock(labels=labels).loss
    assert_same(model(**batch, labels=labels).loss, expected)
    assert model.config.problem_type == stock.config.problem_type
    loss, second = model(**batch, labels=labels, return_dict=False)
    assert_same(loss, expected)
    assert copy.deepcopy(model).half()(**batch, labels=labels).loss.isfinite() and torch.equal(second, logits)


@KINDS
def test_left_padding_and_token_types_have_the_same_effect_as_in_the_familys_own_class(teacher, config, batch):
    """Positions are counted from the first token, even if it is padding. A network without token types ignores them."""
    model = from_stock(teacher)
    counts_all = family_of(teacher.config.model_type).uncounted(teacher.config.pad_token_id) is None
    if counts_all and config.attention_windows is None:  # the result of a window of padding is undefined
        left = {name: value.flip(1) for name, value in batch.items()}
        with torch.no_grad():
            assert_same(model(**left).logits, teacher(**left).logits)
    if config.type_vocab_size < 2:
        types = torch.ones_like(batch["input_ids"])
        assert torch.equal(model(**batch, token_type_ids=types).logits, model(**batch).logits)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": torch.ones(1, 41, dtype=torch.long)}, "1 to 40 tokens in this network, but got 41; truncate it"),
        ({"input_ids": torch.ones(1, 0, dtype=torch.long)}, "but got 0; give a text that is not empty"),
        ({}, "give either input_ids or inputs_embeds, but not both"),
        (
            {"input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 4)},
            r"attention_mask must have the shape of the tokens, \(1, 3\), but has the shape \(1, 4\)",
        ),
    ],
)
def test_invalid_inputs_are_refused_with_a_clear_message(inputs, message, config):
    with pytest.raises(ValueError, match=message):
        _model(config)(**inputs)


@pytest.mark.parametrize("name", ["int8", "low rank and sparse"])
@torch.no_grad()
def test_the_vocabulary_can_grow_and_shrink(name, config, batch, tmp_path):
    model = _model(config, name)
    expected = model(**batch).logits
    table = model.resize_token_embeddings(97)
    assert model.config.vocab_size == 97 == table.num_embeddings and model.get_input_embeddings() is table
    assert model.resize_token_embeddings(pad_to_multiple_of=8).num_embeddings == 104
    assert_same(model(**batch).logits, expected)
    assert model(torch.tensor([[2, 103, 3]])).logits.isfinite().all()
    model.resize_token_embeddings(config.vocab_size).requires_grad_(False)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert_same(again(**batch).logits, expected)


@torch.no_grad()
def test_token_embeddings_can_be_replaced(config, batch):
    model, other = _model(config), nn.Embedding(70, config.hidden_size)
    expected = model(**batch).logits
    model.set_input_embeddings(model.get_input_embeddings())
    assert torch.equal(model(**batch).logits, expected)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings().weight is other.weight and model.config.vocab_size == 70
    with pytest.raises(ValueError, match="must have 32 features, but got 16"):
        model.set_input_embeddings(nn.Embedding(70, 16))
    with pytest.raises(ValueError, match=r"stored as low_rank\(8\)\+int8 and cannot be replaced by Embedding"):
        _model(config, "low rank and sparse").set_input_embeddings(other)


@ALL
def test_gradient_checkpointing_changes_no_gradient(name, config, batch):
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = _model(config, name).train()
    labels, gradients = torch.tensor([0, 2, 1, 0, 1]), []
    for turn in (model.activation_checkpointing_enable, model.activation_checkpointing_disable):
        turn()
        model.zero_grad()
        model(**batch, labels=labels).loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert len(gradients[0]) > 10 and gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_same(gradient, gradients[1][name], of=name)


def test_weights_that_a_file_lacks_are_initialised_at_random(config, tmp_path):
    model = _model(config)
    state = model.state_dict()
    missing = "bert.encoder.layer.1.intermediate.dense.weight"
    state.pop(missing)
    model.save_pretrained(tmp_path, state_dict=state)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    for drawn in (again.get_parameter(missing), again.classifier.weight):
        assert 0.5 * config.initializer_range < drawn.std() < 2.0 * config.initializer_range
    other = "bert.encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(again.get_parameter(other), model.get_parameter(other))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=7)


@pytest.fixture
def folder(config, tmp_path):
    write_artefact(_model(config, "exits"), make_tokenizer(), tmp_path / "export")
    return tmp_path / "export"


def test_a_pipeline_gives_batches_the_same_answers_as_single_texts(folder):
    texts = ["w1 w2", "w50 w3 w3 w3", "w9", ""]
    pairs = [{"text": text, "text_pair": "w7 w8"} for text in texts]
    classify = pipeline("text-classification", model=str(folder))
    assert [len(answer) for answer in classify(texts, top_k=None, batch_size=2)] == [3] * 4
    for given in (texts, pairs):
        alone, together = classify(given), classify(given, batch_size=2)
        assert [answer["label"] for answer in together] == [answer["label"] for answer in alone]
    half = pipeline("text-classification", model=str(folder), dtype=torch.float16)
    assert all(0.0 < answer["score"] <= 1.0 for answer in half(texts, batch_size=2))
    with pytest.raises(ValueError, match="but got 62; truncate it"):
        classify("w9 " * 60)
    assert classify("w9 " * 60, truncation=True)


def test_a_trainer_of_transformers_evaluates_predicts_and_continues_training(folder, tmp_path):
    """The rows have a column that the network does not read, and the batches have different lengths."""
    rows = Dataset.from_dict(
        {
            "input_ids": [[2, 5 + row, *([7] * (row % 4)), 3] for row in range(10)],
            "labels": [row % 3 for row in range(10)],
            "comment": ["none"] * 10,
        }
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder, device_map="cpu")
    arguments = TrainingArguments(
        str(tmp_path / "training"),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        max_steps=1,
        per_device_eval_batch_size=3,
        gradient_accumulation_steps=2,
        activation_checkpointing=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=make_tokenizer(),
        compute_metrics=lambda result: {"right": float((np.argmax(result[0], axis=-1) == result[1]).sum())},
    )
    right = trainer.evaluate()["eval_right"]
    predictions = trainer.predict(rows).predictions
    assert predictions.shape == (10, 3)
    with torch.no_grad():
        alone = [model(torch.tensor([row["input_ids"]])).logits[0].numpy() for row in rows]
    assert right == (predictions.argmax(axis=1) == rows["labels"]).sum()
    assert (predictions.argmax(axis=1) == np.argmax(alone, axis=1)).mean() >= 0.8
    before = model.classifier.weight.detach().clone()
    assert np.isfinite(trainer.train().training_loss) and not torch.equal(model.classifier.weight, before)
    assert not trainer.model_accepts_loss_kwargs  # because the loss is a mean over a batch


def test_saving_a_loaded_export_copies_its_modelling_file(folder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / MODELING_FILE).read_text() == (folder / MODELING_FILE).read_text()
    model.save_pretrained(folder)  # saving to its own folder is allowed


def test_arguments_of_forward_have_the_names_and_the_order_of_transformers(config):
    own = list(inspect.signature(BertForSequenceClassification.forward).parameters)
    assert list(inspect.signature(SupernetWeights.forward).parameters)[: len(own) - 1] == own[:-1]
