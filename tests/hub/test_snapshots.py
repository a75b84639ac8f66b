"""Snapshots of the hub: what is asked of it, what is kept, and what is said where it does not serve."""

from __future__ import annotations

import errno

import pytest
from huggingface_hub import constants

from nas.errors import MachineError, TeacherError
from nas.hub import Snapshot, find, model_folder
from nas.hub import snapshots as module

BERT = {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickled"}


@pytest.fixture
def bert(hub):
    return hub.add("model", "someone/bert", BERT)


def _refused(name="someone/bert", revision=None):
    with pytest.raises(TeacherError) as problem:
        model_folder(find("model", name, revision)[0], weights=True)
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_branches_tags_and_commits_are_found_and_their_files_downloaded_once(hub, bert):
    first = bert.refs["main"]
    bert.tag("v1", first)
    second = bert.commit(BERT | {"config.json": '{"a": 1}'})
    third = bert.commit(BERT | {"config.json": '{"a": 2}'}, branch="refs/pr/1")
    expected = {None: second, "main": second, "v1": first, first: first, "refs/pr/1": third}
    for revision, commit in expected.items():
        found, doubt = find("model", "someone/bert", revision)
        assert (found.commit, doubt) == (commit, "")
        folder = model_folder(found, weights=True)
        assert folder == found.folder
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            name: data for name, data in bert.commits[commit].items() if not name.endswith(".bin")
        }
    asked = len(hub.requests)
    model_folder(found, weights=True)
    assert len(hub.requests) == asked


def test_weights_are_left_until_they_are_asked_for(hub, bert):
    folder = model_folder(find("model", "someone/bert", None)[0], weights=False)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.json"]
    assert not any("large" in request or "safetensors" in request for request in hub.requests)


def test_parts_of_the_weights_are_all_downloaded_and_nothing_below(hub):
    parts = {f"model-0000{number}-of-00002.safetensors": b"part" for number in (1, 2)}
    files = {
        "config.json": "{}",
        "model.safetensors.index.json": "{}",
        "onnx/model.safetensors": b"x",
        "a/b.json": "{}",
    }
    hub.add("model", "someone/large", files | parts)
    folder = model_folder(find("model", "someone/large", None)[0], weights=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["config.json", "model.safetensors.index.json", *parts]
    )


def test_a_token_is_used_and_does_not_leave_the_hub(hub, bert, monkeypatch):
    bert.private = True
    hub.tokens |= {"mine", "other"}
    bert.readers.add("mine")
    assert "no such model or it is private; correct the id, or log in with `hf auth login`" in _refused()
    monkeypatch.setenv("HF_TOKEN", "other")
    assert "correct the id, or use the token of an account that may read it" in _refused()
    monkeypatch.setenv("HF_TOKEN", "expired")
    assert "does not accept your token" in _refused()
    monkeypatch.setenv("HF_TOKEN", "mine")
    folder = model_folder(find("model", "someone/bert", None)[0], weights=True)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert any(request.startswith("GET /large/") for request in hub.requests) and hub.leaked == []


def test_a_gated_model_names_the_page_of_its_terms(hub, bert, monkeypatch):
    bert.gated = True
    words = f"teacher.model: someone/bert: is gated; accept its terms at {hub.endpoint}/someone/bert, then log in with"
    assert words in _refused()
    hub.tokens.add("mine")
    monkeypatch.setenv("HF_TOKEN", "mine")
    assert "your account has no access yet" in _refused()
    bert.readers.add("mine")
    model_folder(find("model", "someone/bert", None)[0], weights=True)


def test_what_is_not_there_is_named_with_what_is(hub, bert):
    bert.tag("v1", bert.refs["main"])
    assert _refused("someone/nobody").startswith(
        "teacher.model: someone/nobody: is not a folder next to the study, and the"
    )
    assert _refused(revision="v2") == (
        "teacher.revision: someone/bert has no branch, tag or commit 'v2'; use one of main, v1"
    )
    assert "no branch, tag or commit '0000" in _refused(revision="0" * 40)
    assert "is not a hub id such as owner/name" in _refused("models/someone/bert")


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ({"config.json"}, "has no config.json"),
        ({"model.safetensors"}, "has no model.safetensors, only pytorch_model.bin, which nas does not load"),
        ({"model.safetensors", "pytorch_model.bin"}, "no other weights in safetensors"),
    ],
)
def test_a_model_that_lacks_files_is_refused_before_any_is_downloaded(hub, without, words):
    hub.add("model", "someone/bert", {name: data for name, data in BERT.items() if name not in without})
    assert words in _refused()
    assert not any("/resolve/" in request for request in hub.requests)


@pytest.mark.parametrize(("status", "words"), [(429, "429, rate limit"), (500, "internal error (500)")])
def test_a_hub_that_fails_leaves_what_was_downloaded(hub, bert, status, words):
    found, _ = find("model", "someone/bert", None)
    folder = model_folder(found, weights=True)
    hub.broken = status
    again, doubt = find("model", "someone/bert", None)
    assert again == found and words in doubt and model_folder(again, weights=True) == folder
    refused = _refused("someone/other")
    assert words in refused and "was not downloaded before; try again later, or give a local folder" in refused


def test_a_hub_that_is_down_and_offline_mode_leave_what_was_downloaded(hub, bert, monkeypatch):
    found, _ = find("model", "someone/bert", None)
    model_folder(found, weights=True)
    hub.stop()
    again, doubt = find("model", "someone/bert", None)
    assert again == found and doubt.startswith(f"{hub.endpoint} cannot be reached (")
    assert (model_folder(again, weights=True) / "model.safetensors").exists()
    assert "check the network, the proxy and HF_ENDPOINT" in _refused("someone/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find("model", "someone/bert", "main") == (found, "HF_HUB_OFFLINE is set")
    refused = _refused("someone/other")
    assert "HF_HUB_OFFLINE is set" in refused and "run `hf download someone/other` while online" in refused
    assert "was not downloaded before" in _refused(revision="1" * 40)


def test_what_other_programs_downloaded_serves_offline(hub, bert, monkeypatch):
    from huggingface_hub import hf_hub_download

    for name in BERT:
        hf_hub_download("someone/bert", name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found, _ = find("model", "someone/bert", None)
    assert (model_folder(found, weights=True) / "model.safetensors").read_bytes() == b"weights"


def test_an_address_where_no_hub_is(hub, bert):
    hub.page = b"<html>log in to the network</html>"
    assert "does not answer like a Hugging Face hub; check HF_ENDPOINT" in _refused()


def test_a_cache_that_cannot_be_written_is_named(hub, bert, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/blobs/1")

    found, _ = find("model", "someone/bert", None)
    monkeypatch.setattr(module, "snapshot_download", full)
    with pytest.raises(MachineError, match="/cache/blobs/1: no free space on the disk; free some"):
        model_folder(Snapshot("model", "someone/bert", found.commit), weights=True)
