"""Scoring: data sets, metrics, reports."""
