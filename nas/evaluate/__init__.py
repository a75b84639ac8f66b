"""Accuracy of candidates with inherited weights."""

from __future__ import annotations

from nas.evaluate.accuracy import CandidateResult, EvaluationRecipe, Evaluator, predict

__all__ = ["CandidateResult", "EvaluationRecipe", "Evaluator", "predict"]
