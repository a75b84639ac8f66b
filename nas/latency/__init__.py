"""Measures the latency of networks in a separate process, and predicts the latency of sub-networks from profiles.

This file imports nothing, so that a process on a Ray node can import `nas.latency.workers` without loading PyTorch.
"""
