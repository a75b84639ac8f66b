"""Models are downloaded from the hub once and reused, and errors explain what the hub does not provide."""

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


def _error_for(name="someone/bert", revision=None):
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
    count = len(hub.requests)
    model_folder(found, weights=True)
    assert len(hub.requests) == count


def test_weights_are_not_downloaded_until_they_are_needed(hub, bert):
    folder = model_folder(find("model", "someone/bert", None)[0], weights=False)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.json"]
    assert not any("large" in request or "safetensors" in request for request in hub.requests)


def test_all_parts_of_the_weights_are_downloaded_but_no_subfolders(hub):
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


ENCODER = BERT | {
    "modules.json": '[{"path": "", "type": "T"}, {"path": "1_Pooling", "type": "P"}, {"path": "2_Dense", "type": "D"}]',
    "1_Pooling/config.json": "{}",
    "2_Dense/config.json": "{}",
    "2_Dense/model.safetensors": b"dense",
    "2_Dense/pytorch_model.bin": b"pickled",
    "2_Dense_256/model.safetensors": b"another width, which the list does not name",
}


def test_the_files_of_a_sentence_encoders_modules_are_downloaded(hub):
    hub.add("model", "someone/encoder", ENCODER)
    for weights, expected in ((False, []), (True, ["2_Dense/model.safetensors"])):
        folder = model_folder(find("model", "someone/encoder", None)[0], weights)
        nested = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))
        assert nested == ["1_Pooling/config.json", "2_Dense/config.json", *expected]
    hub.add("model", "someone/odd", ENCODER | {"modules.json": "{"})
    assert not list(model_folder(find("model", "someone/odd", None)[0], True).glob("*/*"))


def test_a_module_with_pickled_weights_is_refused(hub):
    without = {name: data for name, data in ENCODER.items() if name != "2_Dense/model.safetensors"}
    hub.add("model", "someone/encoder", without)
    error = _error_for("someone/encoder")
    assert "has 2_Dense/pytorch_model.bin, which nas does not load, but no 2_Dense/model.safetensors; set" in error
    assert "`hf download someone/encoder --local-dir FOLDER`" in error


def test_a_token_gives_access_and_is_not_sent_to_other_servers(hub, bert, monkeypatch):
    bert.private = True
    hub.tokens |= {"mine", "other"}
    bert.readers.add("mine")
    assert "no such model or it is private; correct the id, or log in with `hf auth login`" in _error_for()
    monkeypatch.setenv("HF_TOKEN", "other")
    assert "correct the id, or use the token of an account that may read it" in _error_for()
    monkeypatch.setenv("HF_TOKEN", "expired")
    assert "does not accept your token" in _error_for()
    monkeypatch.setenv("HF_TOKEN", "mine")
    folder = model_folder(find("model", "someone/bert", None)[0], weights=True)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert any(request.startswith("GET /large/") for request in hub.requests) and hub.leaked == []


def test_the_error_for_a_gated_model_names_the_page_with_its_terms(hub, bert, monkeypatch):
    bert.gated = True
    words = f"teacher.model: someone/bert: is gated; accept its terms at {hub.endpoint}/someone/bert, then log in with"
    assert words in _error_for()
    hub.tokens.add("mine")
    monkeypatch.setenv("HF_TOKEN", "mine")
    assert "your account has no access yet" in _error_for()
    bert.readers.add("mine")
    model_folder(find("model", "someone/bert", None)[0], weights=True)


def test_errors_for_unknown_models_and_revisions_name_the_known_revisions(hub, bert):
    bert.tag("v1", bert.refs["main"])
    assert _error_for("someone/nobody").startswith(
        "teacher.model: someone/nobody: is not a folder next to the study, and the"
    )
    assert _error_for(revision="v2") == (
        "teacher.revision: someone/bert has no branch, tag or commit 'v2'; use one of main, v1"
    )
    assert "no branch, tag or commit '0000" in _error_for(revision="0" * 40)
    assert "is not a hub id; give an id of the form owner/name, or" in _error_for("models/someone/bert")


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ({"config.json"}, "has no config.json"),
        ({"model.safetensors"}, "has no model.safetensors, only pytorch_model.bin, which nas does not load"),
        ({"model.safetensors", "pytorch_model.bin"}, "no other weights in safetensors"),
    ],
)
def test_a_model_that_lacks_files_is_refused_before_any_download(hub, without, words):
    hub.add("model", "someone/bert", {name: data for name, data in BERT.items() if name not in without})
    assert words in _error_for()
    assert not any("/resolve/" in request for request in hub.requests)


@pytest.mark.parametrize(("status", "words"), [(429, "429, rate limit"), (500, "internal error (500)")])
def test_downloaded_files_are_used_if_the_hub_fails(hub, bert, status, words):
    found, _ = find("model", "someone/bert", None)
    folder = model_folder(found, weights=True)
    hub.broken = status
    again, doubt = find("model", "someone/bert", None)
    assert again == found and words in doubt and model_folder(again, weights=True) == folder
    refused = _error_for("someone/other")
    assert words in refused and "was not downloaded before; try again later, or give a local folder" in refused


def test_downloaded_files_are_used_if_the_hub_is_down_or_in_offline_mode(hub, bert, monkeypatch):
    found, _ = find("model", "someone/bert", None)
    model_folder(found, weights=True)
    hub.stop()
    again, doubt = find("model", "someone/bert", None)
    assert again == found and doubt.startswith(f"{hub.endpoint} cannot be reached (")
    assert (model_folder(again, weights=True) / "model.safetensors").exists()
    assert "check the network, the proxy and HF_ENDPOINT" in _error_for("someone/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find("model", "someone/bert", "main") == (found, "HF_HUB_OFFLINE is set")
    refused = _error_for("someone/other")
    assert "HF_HUB_OFFLINE is set" in refused and "run `hf download someone/other` while online" in refused
    assert "was not downloaded before" in _error_for(revision="1" * 40)


def test_files_that_other_programs_downloaded_are_used_offline(hub, bert, monkeypatch):
    from huggingface_hub import hf_hub_download

    for name in BERT:
        hf_hub_download("someone/bert", name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found, _ = find("model", "someone/bert", None)
    assert (model_folder(found, weights=True) / "model.safetensors").read_bytes() == b"weights"


def test_an_address_that_is_not_a_hub_is_refused(hub, bert):
    hub.page = b"<html>log in to the network</html>"
    assert "does not answer like a Hugging Face hub; check HF_ENDPOINT" in _error_for()


def test_a_cache_that_cannot_be_written_is_named(hub, bert, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/blobs/1")

    found, _ = find("model", "someone/bert", None)
    monkeypatch.setattr(module, "snapshot_download", full)
    with pytest.raises(MachineError, match="/cache/blobs/1: no free space on the disk; free some"):
        model_folder(Snapshot("model", "someone/bert", found.commit), weights=True)
