"""Accuracy of a map, and areas with intervals: sampling designs, estimators, agreement, zones."""
