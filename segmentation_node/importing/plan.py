"""All that was settled of an import: what the new graph, its check and the card are made of."""

from dataclasses import dataclass

from segmentation_node.importing.head import IDS, Arrangement
from segmentation_node.importing.settings import Triple
from segmentation_node.labels import UNLABELLED, LabelSet


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The network's input: its name, NumPy's name of the dtype, and where its channels lie."""

    name: str
    dtype: str
    layout: str
    batch: int

    def shape(self, size: tuple[int, int], batch: int = 1) -> tuple[int, ...]:
        """Its shape for pictures of this height and width."""
        return (batch, 3, *size) if self.layout == "nchw" else (batch, *size, 3)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``mean`` and ``std`` are of red, green, blue: the network sees (pixel*scale - mean) / std.

    ``threshold`` is of sigmoids and of one channel, in the output's own unit; NaN elsewhere.
    """

    entry: Entry
    size: tuple[int, int]
    mean: Triple
    std: Triple
    scale: float
    order: str
    head: str
    arrangement: Arrangement
    kind: str
    threshold: float
    id_offset: int
    labels: LabelSet
    resize: str
    by_corners: bool

    @property
    def has_confidence(self) -> bool:
        """Whether there are scores to tell it from."""
        return self.kind != IDS

    @property
    def takes_bytes(self) -> bool:
        """Whether the network takes the picture as it is, and normalises itself."""
        return self.entry.dtype == "uint8"

    def class_ids(self) -> list[int]:
        """The class map's value by the network's own: its channels, or what its threshold gives.

        Of sigmoids, and of one channel, the first is "none above the threshold": unlabelled, unless
        the label set has one class more than there are channels, or begins with a background. Of
        ids it is -1, the last 255.
        """
        if self.kind == "sigmoids" and self._background_is_a_channel():
            return self._shifted([0, *range(self.arrangement.channels)])
        if self.kind in ("sigmoids", "probability", "score"):
            named = len(self.labels) > self.arrangement.channels
            first = 0 if named else -1
            return self._shifted([first + value for value in range(self.arrangement.channels + 1)])
        if self.kind == IDS:
            return self._shifted(list(range(-1, 256)))
        return self._shifted(list(range(self.arrangement.channels)))

    def _background_is_a_channel(self) -> bool:
        is_one_each = len(self.labels) - self.id_offset == self.arrangement.channels
        return is_one_each and self.labels.names[0].lower() in ("background", "_background_")

    def _shifted(self, ids: list[int]) -> list[int]:
        shifted = [value + self.id_offset for value in ids]
        return [value if 0 <= value < len(self.labels) else UNLABELLED for value in shifted]
