"""`nas push` uploads an export to a repository on a hub, or explains in one line why it does not."""

from __future__ import annotations

import json
import shutil

import pytest
from hub_server import folder_files
from huggingface_hub import ModelCard, constants
from tiny import make_teacher, make_tokenizer
from transformers import AutoModelForSequenceClassification

from nas.export.artefact import write_artefact
from nas.export.publishing import push
from nas.hub import find, model_folder
from nas.model.stock import from_stock

# The hub's client hands streams to httpx in a way that httpx no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
CARD = "---\nlicense: mit\npipeline_tag: text-classification\n---\n# tiny: fast\n"


@pytest.fixture(scope="module")
def verified_export(tmp_path_factory):
    """A verified export with a model card."""
    folder = tmp_path_factory.mktemp("exports") / "fast"
    write_artefact(from_stock(make_teacher()), make_tokenizer(), folder)
    (folder / "verification.json").write_text('{"met": true}')
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def export(verified_export, tmp_path):
    return shutil.copytree(verified_export, tmp_path / "fast")


@pytest.fixture
def account(hub, monkeypatch):
    """A hub on which the user is logged in and may write to the repositories of `me`."""
    hub.let_write("secret", "me")
    monkeypatch.setenv("HF_TOKEN", "secret")
    return hub


def _content(hub, name):
    found = hub.repositories["model", name]
    files = dict(found.commits[found.refs["main"]])
    assert files.pop(".gitattributes")
    return files


def test_an_uploaded_export_has_its_card_and_can_be_loaded(nas, account, export, tmp_path):
    (export / ".model.onnx.draft").write_bytes(b"left by a process that was killed")
    output, error = nas("push", export, "me/tiny", "--json")
    assert error == ""
    printed = json.loads(output.splitlines()[-1])
    assert f"pushed: {account.endpoint}/me/tiny (public, commit {printed['commit'][:7]})" in output
    (export / ".model.onnx.draft").unlink()
    assert _content(account, "me/tiny") == folder_files(export)
    assert account.repositories["model", "me/tiny"].titles == ["fast, exported by nas"] and not account.leaked
    snapshot, _ = find("model", "me/tiny", None)
    assert snapshot.commit == printed["commit"]
    folder = model_folder(snapshot, weights=True)
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 2
    assert ModelCard.load(folder / "README.md").data.license == "mit"


def test_the_next_export_replaces_all_files_of_the_previous_one(account, export):
    first = push(export, "me/tiny")
    (export / "openvino_model.xml").write_text("<net/>")
    push(export, "me/tiny")
    (export / "openvino_model.xml").unlink()
    (export / "verification.json").write_text('{"met": true, "p50_ms": 2.0}')
    third = push(export, "me/tiny")
    assert _content(account, "me/tiny") == folder_files(export) and third.commit != first.commit
    assert push(export, "me/tiny").commit is not None  # nothing changed


def test_a_private_repository_is_created_and_stays_private(nas, account, export):
    assert "(private, commit " in nas("push", export, "me/own", "--private")[0]
    assert account.repositories["model", "me/own"].private
    assert push(export, "me/own").private and push(export, "me/own", private=True).private


def test_a_private_upload_to_a_public_repository_is_refused(nas, account, export):
    push(export, "me/tiny")
    before = account.repositories["model", "me/tiny"].refs["main"]
    (export / "verification.json").write_text("{}")
    _, error = nas("push", export, "me/tiny", "--private", code=2)
    assert "this one is public; make it private at " in error and error.count("\n") == 1
    assert account.repositories["model", "me/tiny"].refs["main"] == before


def test_a_repository_that_holds_no_earlier_export_is_not_overwritten(nas, account, export):
    account.add("model", "me/other", {"config.json": "{}", "model.safetensors": b"weights"})
    _, error = nas("push", export, "me/other", code=2)
    assert "must be empty or contain an earlier export, but has no architecture.json among its 2" in error
    account.add("model", "me/empty", {"README.md": "soon", ".gitattributes": "x"})
    assert push(export, "me/empty").commit and _content(account, "me/empty")["README.md"] == CARD.encode()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("you/tiny", "(403: You don't have the rights to create a model under you); use a token with write access"),
        ("a/b/c", "a/b/c: is not a hub id; give an id of the form owner/name"),
    ],
)
def test_an_invalid_or_forbidden_repository_name_is_refused(nas, account, export, name, message):
    _, error = nas("push", export, name, code=2)
    assert message in error and error.count("\n") == 1


def test_a_read_only_repository_is_refused(nas, account, export):
    account.add("model", "you/tiny", {"architecture.json": "{}"})
    _, error = nas("push", export, "you/tiny", code=2)
    assert "does not let you write to it (403: You don't have the rights to write to it)" in error


def test_a_missing_login_and_an_unreachable_hub_are_reported(nas, hub, export, monkeypatch):
    _, error = nas("push", export, "me/tiny", code=2)
    assert "me/tiny: uploading needs a login; log in with `hf auth login`" in error
    monkeypatch.setenv("HF_TOKEN", "unknown")
    assert "does not accept your token" in nas("push", export, "me/tiny", code=2)[1]
    assert not hub.repositories
    hub.broken = 503
    assert "the hub reports an internal error (503)" in nas("push", export, "me/tiny", code=2)[1]
    hub.stop()
    _, error = nas("push", export, "me/tiny", code=2)
    assert "cannot be reached" in error and error.count("\n") == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set; unset it" in nas("push", export, "me/tiny", code=2)[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "architecture.json").unlink(), "must be the folder of an export"),
        (lambda folder: (folder / "verification.json").unlink(), "was not verified, since it has no verification.json"),
        (lambda folder: (folder / "verification.json").write_text('{"met": false}'), "missed its budget when it was"),
        (lambda folder: (folder / "README.md").unlink(), "has no model card, README.md"),
    ],
)
def test_an_export_that_is_not_ready_is_refused_before_any_request(nas, account, export, change, message):
    change(export)
    _, error = nas("push", export, "me/tiny", code=2)
    assert message in error and error.count("\n") == 1
    assert not account.requests
