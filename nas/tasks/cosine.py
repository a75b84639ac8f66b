"""Vectors of length 1, whose products are cosine similarities."""

from __future__ import annotations

import numpy as np


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (count, width) scaled to length 1; vectors of length 0 remain unchanged."""
    units: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return units
