"""Offline training: turns data sets into what the node loads. Never imported by the node."""
