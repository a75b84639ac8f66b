"""Idle threads sleep, except in latency measurements, and replicas of a model share its weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nas.device import Device
from nas.latency.workers import LocalWorker
from nas.threads import replica
from nas.waiting import as_served, wait_passively


@pytest.fixture
def no_wait_policy(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "NAS_CHOSE_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_idle_threads_sleep_unless_the_user_has_set_a_policy(no_wait_policy):
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "OMP_WAIT_POLICY" not in as_served() and as_served()["PATH"] == os.environ["PATH"]
    wait_passively()  # as in a child process, which inherits the setting
    assert "OMP_WAIT_POLICY" not in as_served()


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_a_wait_policy_of_the_user_is_kept(no_wait_policy, name):
    no_wait_policy.setenv(name, "1")
    wait_passively()
    assert os.environ.get("OMP_WAIT_POLICY") == ("1" if name == "OMP_WAIT_POLICY" else None)
    assert as_served()[name] == "1"


def test_the_wait_policy_is_set_before_torch_is_loaded(no_wait_policy):
    program = "import sys, os, nas; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["PASSIVE", "False"]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_latency_is_measured_with_the_default_wait_policy(no_wait_policy):
    wait_passively()
    with LocalWorker(Device(name="here")) as worker:
        environment = Path(f"/proc/{worker._process.pid}/environ").read_bytes()
    assert b"OMP_WAIT_POLICY" not in environment and b"PATH=" in environment


def test_a_replica_shares_weights_and_buffers_but_not_gradients_or_modes():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[0].bias.requires_grad_(False)
    other = replica(model)
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in model.parameters()]
    other.eval()(torch.ones(2, 3)).sum().backward()
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        model[0].weight.fill_(7.0)
        model[1].running_mean.fill_(3.0)
    assert other[0].weight.eq(7.0).all() and other[1].running_mean.eq(3.0).all()
