"""What a run gives: frames scored, accuracy, consistency, timing, provenance."""
