"""Recipes: a training run written down as a file, so that anyone can repeat it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segmentation_node.errors import ContentError, shown
from segmentation_node.files import write_whole
from segmentation_node.plain_values import build
from segmentation_node.yaml_and_json import read_yaml
from training.errors import RecipeError

RECIPE_FILE = "recipe.yaml"
CHOICES = {
    "optimiser": ("adamw", "sgd"),
    "schedule": ("one_cycle", "poly", "constant"),
    "loss_reduction": ("mean", "caffe", "sum"),
    "class_weights": ("enet", "median_frequency", "none"),
    "precision": ("fp32", "tf32", "bf16", "fp16"),
}
LEAST = {
    **dict.fromkeys(("epochs", "batch_size", "loss_stride", "evaluate_every"), 1),
    "class_weight_offset": 1,
    **dict.fromkeys(("momentum", "weight_decay", "poly_power", "max_gradient_norm"), 0),
    **dict.fromkeys(("lovasz_weight", "light_jitter", "color_jitter"), 0),
}
"""The least value of a number, by key."""
LIMIT = 2**31
"""The seed and a crop's sides are below: torch counts in 64 bits what is made of them."""


@dataclass(frozen=True, kw_only=True)
class Ohem:
    """Online hard example mining: of each image only the pixels that are still wrong count."""

    threshold: float = 0.7
    """A pixel is hard while the probability of its true class is below this."""
    least_share: float = 0.0625
    """Share of an image's labelled pixels that always counts: its hardest."""

    def __post_init__(self) -> None:
        _require(0 < self.threshold <= 1, f"ohem.threshold {self.threshold} is not in (0, 1]")
        _require(0 < self.least_share <= 1, f"ohem.least_share {self.least_share} not in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learn from other networks as well as from the labels."""

    teacher: str | tuple[str, ...]
    """Folder of the teacher's run: recipe.yaml and weights.safetensors. Those of a list teach in
    turn: in the mean that is the gradient towards their averaged probabilities."""
    weight: float = 1.0
    """Of the divergence from the teachers, beside the loss on the labels."""
    temperature: float = 2.0
    """Softens both distributions; the gradient is scaled back by its square."""

    def __post_init__(self) -> None:
        _require(self.weight >= 0, f"distillation.weight {self.weight} must be at least 0")
        _require(self.temperature > 0, f"distillation.temperature {self.temperature} must be > 0")
        _require(len(self.teacher) > 0, "distillation.teacher names no run")

    @property
    def teachers(self) -> tuple[str, ...]:
        """The folders, one or more."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


SECTIONS: dict[str, type] = {"ohem": Ohem, "distillation": Distillation}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run's result besides the code. Unknown keys are refused."""

    network: str
    """Name in ``segmentation_node.networks.NETWORKS``."""
    network_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the network; they travel to the model card."""
    trunk: str = ""
    """Local file of a pre-trained trunk in torchvision's naming (VGG-16 for SegNet, SqueezeNet 1.1
    for ELU-SqueezeNet; safetensors or a state dict); empty: random weights."""
    trunk_rate: float = 1.0
    """Learning rate of the tensors that came from ``trunk``, as a factor of ``learning_rate``; 0
    leaves them as they came, but for the statistics of batch norms, which follow the batches."""
    start_weights: str = ""
    """weights.safetensors of the same network, of a run or a model, to go on from. Layers sized by
    the number of classes stay random where the file's are for another."""
    widen_start: bool = False
    """``start_weights`` are a narrower network's, a whole factor narrower at each layer: the run
    starts with its function, see ``training.widen``."""
    narrow_start: bool = False
    """``start_weights`` are a wider network's, with its recipe.yaml or model.yaml beside them: the
    run starts with those of its channels that weigh most, see ``training.narrow``."""
    dataset: str
    """Name in ``segmentation_node.evaluation.datasets.DATASETS``."""
    train_split: str = "train"
    val_split: str = "val"
    """Split that is scored while training; empty where there is none."""
    seed: int = 0
    epochs: int
    """Passes over the training split."""
    batch_size: int = 4
    """Images per optimiser step, over all processes and accumulated parts together."""
    mean_rgb: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted from the image (RGB, 0-255) before it is divided by ``std_rgb``: ImageNet's."""
    std_rgb: tuple[float, float, float] = (58.395, 57.12, 57.375)
    precision: str = "fp32"
    """Arithmetic of the network: fp32, tf32, or mixed with bf16 or fp16."""

    optimiser: str = "adamw"
    momentum: float = 0.9
    """Of SGD; AdamW has its own."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    weight_decay: float = 1e-4
    schedule: str = "one_cycle"
    warmup_share: float = 0.1
    """Share of all steps in which the learning rate rises."""
    poly_power: float = 0.9
    """Exponent of the poly schedule's fall."""
    max_gradient_norm: float = 1.0
    """Longer gradients are scaled down to it; 0 leaves them."""
    ema_decay: float = 0.998
    """Per step; the averaged weights are what is evaluated and exported. 0: no averaging."""
    recompute_batch_norm: bool = False
    """Average the batch-norm statistics over the training split when training is over."""

    class_weights: str | tuple[float, ...] = "enet"
    """``enet``, ``median_frequency`` (SegNet's), ``none``, or a list with one per class."""
    class_weight_offset: float = 1.02
    """ENet's weighting 1 / ln(offset + share of pixels), 1 or more; larger is nearer to none."""
    loss_reduction: str = "mean"
    """``mean`` divides the weighted sum over pixels by the sum of their weights, ``caffe`` by
    the number of labelled pixels, ``sum`` by nothing."""
    loss_stride: int = 1
    """The loss looks at every so many-th row and column, beginning elsewhere in every step: on a
    CPU, the full-size loss over all classes takes a third of a small network's step."""
    ohem: Ohem | None = None
    lovasz_weight: float = 0.0
    """Of the Lovász-Softmax loss, which stands for 1 - mean IoU, beside the cross-entropy."""
    auxiliary_heads: dict[str, float] = field(default_factory=dict)
    """Module of the network -> weight of the loss of a 1x1 classifier on its output; the
    classifiers exist while training only."""
    distillation: Distillation | None = None

    crop_size: tuple[int, int]
    """Height and width of the training crops in pixels."""
    scale_range: tuple[float, float] = (0.75, 1.75)
    """Zoom of the image before the crop is cut."""
    flip: bool = True
    """Mirror half of the images left to right."""
    light_jitter: float = 0.3
    """Strength of brightness, contrast, saturation and gamma changes; 0 turns them off."""
    color_jitter: float = 0.0
    """Strength of independent gains of red, green and blue (white balance); 0 turns them off."""
    evaluate_every: int = 5
    """Epochs between evaluations on the validation split."""

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            value = getattr(self, key)
            is_list = key == "class_weights" and isinstance(value, tuple)
            _require(
                is_list or value in choices,
                f"{key} is {shown(value)}; expected one of {list(choices)}",
            )
        for key, least in LEAST.items():
            value = getattr(self, key)
            _require(value >= least, f"{key} is {value}; it must be at least {least}")
        low, high = self.scale_range
        for key, largest in {"seed": abs(self.seed), "crop_size": max(self.crop_size)}.items():
            _require(largest < LIMIT, f"{key} is {getattr(self, key)}; expected less than {LIMIT}")
        weights = self.class_weights if isinstance(self.class_weights, tuple) else (1.0,)
        _require(
            min(weights, default=0) >= 0 and max(weights, default=0) > 0,
            f"class_weights {shown(list(weights))} must be at least 0, and not all 0",
        )
        heads = self.auxiliary_heads
        _require(min(heads.values(), default=0) >= 0, f"auxiliary_heads {heads} must be at least 0")
        _require(self.momentum < 1, f"momentum {self.momentum} must be less than 1")
        _require(self.learning_rate > 0, f"learning_rate {self.learning_rate} must be > 0")
        _require(min(self.std_rgb) > 0, f"std_rgb {self.std_rgb} must be > 0")
        _require(min(self.crop_size) >= 1, f"crop_size {self.crop_size} must be at least 1")
        _require(0 < low <= high, f"scale_range {self.scale_range} must be positive and ascending")
        _require(0 <= self.ema_decay < 1, f"ema_decay {self.ema_decay} must be in [0, 1)")
        _require(0 <= self.warmup_share < 1, f"warmup_share {self.warmup_share} not in [0, 1)")
        _require(
            not (self.trunk and self.start_weights),
            "trunk and start_weights exclude each other: a run starts from one file",
        )
        _require(
            not self.widen_start or bool(self.start_weights),
            "widen_start is set, but there are no start_weights",
        )
        _require(
            not self.narrow_start or bool(self.start_weights),
            "narrow_start is set, but there are no start_weights",
        )
        _require(
            not (self.widen_start and self.narrow_start),
            "widen_start and narrow_start exclude each other",
        )
        _require(0 <= self.trunk_rate <= 1, f"trunk_rate {self.trunk_rate} is not in [0, 1]")
        _require(
            self.trunk_rate == 1 or bool(self.trunk), "trunk_rate is set, but there is no trunk"
        )
        _require(
            self.ohem is None or self.loss_reduction == "mean",
            "ohem averages over the hard pixels: loss_reduction must stay 'mean'",
        )

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read a YAML recipe. Raises RecipeError that names the file and the key."""
        try:
            return cls.of(read_yaml(str(path)))
        except ContentError as error:
            raise RecipeError(f"{path}: not a readable recipe: {error.reason}") from error
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error

    @classmethod
    def of(cls, values: Any) -> "Recipe":
        """A recipe of plain values, as a file or a checkpoint holds them. Raises RecipeError."""
        try:
            return build(cls, values, "the recipe")
        except ValueError as error:
            raise RecipeError(str(error)) from error

    def write(self, path: Path) -> None:
        """Write the recipe with every key, so that later defaults do not change it."""
        write_whole(str(path), self.text())

    def text(self) -> str:
        """The recipe as a file holds it, with every key."""
        text: str = yaml.safe_dump(asdict(self), sort_keys=False)
        return text


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a recipe is carried out, where that does not decide the result."""

    accumulate: int = 1
    """Parts that a process's batch is computed in, to fit into memory."""
    compile_network: bool = False
    cuda_graph: bool = False
    """Record forward and backward pass once and replay them: one GPU, one process."""
    checkpoint_minutes: float = 10.0
    """What a killed run loses at most."""
    stop_after: int | None = None
    """Stop as on a signal after this many steps."""
    resume: bool = False


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RecipeError(message)
