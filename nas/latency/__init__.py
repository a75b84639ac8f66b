"""Latency of sub-networks on a device: isolated measurement, block profiles, prediction.

Nothing is imported here: a process on the device's node needs `lanes` alone, without PyTorch.
"""
