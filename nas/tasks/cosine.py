"""Unit vectors. The dot product of two unit vectors is their cosine similarity."""

from __future__ import annotations

import numpy as np


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of the shape (count, width), scaled to length 1. Vectors of length 0 remain unchanged."""
    units: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return units
