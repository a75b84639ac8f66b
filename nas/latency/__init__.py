"""Measure the latency of sub-networks on a device in an isolated process, and predict it from block profiles.

This file imports nothing, so that a process on a Ray node can import `nas.latency.workers` without loading PyTorch.
"""
