"""Metrics, and the evaluators that feed them with predictions and the ground truth of records."""
