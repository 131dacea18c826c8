"""Metrics, intervals, and comparisons that are fair to chance."""
