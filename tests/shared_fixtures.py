"""Fixtures for all tests. Importing this module also disables the progress bars of libraries; see conftest.py."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import forked
import pytest
import simulated
import torch
from datasets import disable_progress_bars
from filelock import FileLock
from hub_server import Hub
from huggingface_hub import constants
from tiny import PRINTED, make_teacher, randomise, write_tiny_study
from transformers import PreTrainedModel
from transformers import logging as transformers_logging

from nas.model import CompactBertConfig
from nas.model.stock import compact_config, from_stock
from nas.pipeline import Run
from nas.space import SearchSpace
from nas.study import Study
from nas.supernet import SupernetWeights, sampling

torch.set_num_threads(1)
disable_progress_bars()
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
# A search for sub-networks near a budget tries up to 20,000 of them, which takes longer than the training of a tiny
# supernet. Set before the template of all other processes is forked.
_SHIPPED_POOL = {name: getattr(sampling, name) for name in ("_POOL_SIZE", "_MAX_TRIES")}
sampling._POOL_SIZE, sampling._MAX_TRIES = 100, 1000
forked.start()


def pytest_collection_finish() -> None:
    """If any collected test uses Ray, make its clusters start fewer processes."""
    if "ray" in sys.modules:
        forked.lighten_ray()


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace.load("tiny")


@pytest.fixture
def teacher_kind() -> str:
    """The kind of the fixture `teacher`. Tests can be parametrised with the keys of `tiny.TEACHERS`."""
    return "bert"


@pytest.fixture
def outputs() -> int:
    return 3


@pytest.fixture
def teacher(teacher_kind: str, outputs: int) -> PreTrainedModel:
    return randomise(make_teacher(teacher_kind, outputs))


@pytest.fixture
def config(teacher: PreTrainedModel) -> CompactBertConfig:
    return compact_config(teacher.config)


@pytest.fixture
def supernet_weights(teacher: PreTrainedModel, space: SearchSpace) -> SupernetWeights:
    """Supernet weights: the teacher, with random values in the parameters of smaller hidden sizes and of methods."""
    exits = bool(space.dimensions.exit_threshold)
    torch.manual_seed(1)  # for the weights of the exits
    weights = SupernetWeights.of(from_stock(teacher), space.dimensions.hidden_size, space.compression, exits)
    randomise(weights.narrow, seed=1, scale=0.1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in weights.named_parameters():
        if not name.endswith((".weight", ".bias")):
            parameter.data.normal_(0.0, 0.4, generator=generator)
    return weights


@pytest.fixture
def batch(config: CompactBertConfig) -> dict[str, torch.Tensor]:
    """Five padded texts. The last four are text pairs if the model has token types."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 90, (5, 11), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    mask[3, 4:] = 0
    ids[mask == 0] = config.pad_token_id
    types = torch.zeros_like(ids)
    types[1:, 6:] = 1
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: inputs[name] for name in config.input_names}


@pytest.fixture
def tiny_study(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "tiny")


@pytest.fixture
def run(tiny_study: Path, tmp_path: Path) -> Run:
    """A run of the tiny study, without any result."""
    return Run.of(Study.load(tiny_study), tmp_path / "runs")


@pytest.fixture
def simulated_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute latencies from the sizes of files, instead of measuring them."""
    simulated.install(monkeypatch)


@pytest.fixture
def shipped_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try as many sub-networks near a budget as outside the tests."""
    for name, number in _SHIPPED_POOL.items():
        monkeypatch.setattr(sampling, name, number)


@pytest.fixture(scope="session")
def _shared_finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny study with a finished run. All test processes share it, so tests must copy it.

    Its latencies are simulated, so that the same networks are searched and exported in every run of the tests.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "finished" / "tiny"
    with FileLock(shared / "finished.lock"):
        if not (folder / PRINTED).exists():
            shutil.rmtree(folder, ignore_errors=True)
            study = write_tiny_study(folder)
            done = forked.run("-c", simulated.RUN, "run", study, "--runs", folder / "runs", "--json")
            assert done.returncode == 0, done.stderr
            (folder / PRINTED).write_text(json.dumps({"output": done.stdout, "error": done.stderr}))
    return folder


@pytest.fixture(scope="session")
def finished_study(_shared_finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a finished tiny study, with results in `runs` and output in PRINTED. Tests must not change them."""
    return shutil.copytree(_shared_finished_run, tmp_path_factory.mktemp("finished") / "tiny") / "study.toml"


@pytest.fixture(scope="session")
def searched_study(_shared_finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a searched tiny study without exports, with results in `runs`. Tests must not change them."""
    folder = shutil.copytree(_shared_finished_run, tmp_path_factory.mktemp("searched") / "tiny")
    run = folder / "runs" / "tiny"
    for part in ("exports", "baselines", "finalists"):
        shutil.rmtree(run / part)
        for step in (run / "steps").glob(f"{part.removesuffix('s')}*.json"):
            step.unlink()
    for page in (run / "report.html", *run.glob("*.svg")):
        page.unlink()
    return folder / "study.toml"


@pytest.fixture
def nas(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """Run `nas` in this process, and check its exit code. Return standard output and standard error."""
    from nas import cli

    def call(*arguments: object, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["nas", *map(str, arguments)])
        capsys.readouterr()
        found = 0
        try:
            cli.main()
        except SystemExit as stop:
            found = int(stop.code or 0)
        captured = capsys.readouterr()
        assert found == code, captured.err
        return captured.out, captured.err

    return call


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub to which this process is connected, with an empty cache and without a login."""
    from nas.pipeline import snapshots

    with Hub() as server:
        settings = {
            "ENDPOINT": server.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        snapshots.forget()
        yield server
    snapshots.forget()
