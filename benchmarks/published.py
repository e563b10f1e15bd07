"""Published times that the tables and pictures show beside ours."""

TX1_MS = {
    ("elu_squeezenet", "480x320"): 60.0,
    ("elu_squeezenet", "640x360"): 86.0,
    ("elu_squeezenet", "1280x720"): 389.0,
}
"""Latency in ms on a Jetson TX1 by network and image: Treml et al. 2016, Table 3."""
TX1_SOURCE = "Treml et al. 2016"
