"""Score a model through the live node: images go out over DDS, its results come back."""
