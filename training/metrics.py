"""Scores from a confusion matrix (rows truth, columns prediction): those of an assessment, under their old place."""

from __future__ import annotations

from engine.assessment.confusion import Scores, confusion

__all__ = ["Scores", "confusion"]
