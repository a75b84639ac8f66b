"""Evaluates candidates: computes the accuracy of sub-networks with weights inherited from the supernet."""

from __future__ import annotations

from nas.evaluate.accuracy import CandidateResult, Evaluator, predict
from nas.evaluate.memory import Memory
from nas.evaluate.recipe import EvaluationParts, EvaluationRecipe

__all__ = ["CandidateResult", "EvaluationParts", "EvaluationRecipe", "Evaluator", "Memory", "predict"]
