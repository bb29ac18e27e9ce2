"""Scores: of predictions against labels, counted in whole numbers."""

from lib.scores.segmentation import Scores

__all__ = ["Scores"]
