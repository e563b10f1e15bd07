"""The families of networks that ``--from`` knows: one entry each."""

from dataclasses import dataclass

from segmentation_node.errors import NetworkImportError
from segmentation_node.importing import side_files
from segmentation_node.importing.settings import Settings, Told
from segmentation_node.importing.side_files import Reader, Surroundings
from segmentation_node.labels import LABEL_SETS

FROM_BYTES = 1 / 255
IMAGENET = Settings(
    scale=FROM_BYTES, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), order="rgb"
)


def _from_imagenet(**more: object) -> Settings:
    return Settings(**{**_said(IMAGENET), **more})  # type: ignore[arg-type]


def _said(settings: Settings) -> dict[str, object]:
    return {key: value for key, value in vars(settings).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Family:
    """How its networks take pictures, what is beside them, and by what they are recognised.

    ``marks`` are files beside the network, or keys of its metadata, all of which must be there;
    without any the family is never guessed.
    """

    usual: Settings
    reader: Reader = side_files.nothing
    marks: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    "bisenet": Family(
        usual=Settings(
            scale=FROM_BYTES,
            mean=(0.3257, 0.3690, 0.3223),
            std=(0.2112, 0.2148, 0.2115),
            order="rgb",
            labels=LABEL_SETS["cityscapes19"],
        )
    ),
    "deeplab_tfhub": Family(
        usual=Settings(
            scale=1.0,
            mean=(127.5, 127.5, 127.5),
            std=(127.5, 127.5, 127.5),
            order="rgb",
            labels=LABEL_SETS["voc21"],
        )
    ),
    "jetson_inference": Family(usual=IMAGENET, reader=side_files.classes_and_colors),
    "mmdeploy": Family(
        usual=IMAGENET, reader=side_files.mmdeploy, marks=("pipeline.json", "deploy.json")
    ),
    "open_model_zoo": Family(
        usual=Settings(scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), order="bgr")
    ),
    "paddleseg": Family(
        usual=Settings(scale=FROM_BYTES, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), order="rgb"),
        reader=side_files.paddle,
        marks=("deploy.yaml",),
    ),
    # Trained with scores that are enlarged so, and enlarged so by its authors (tools/custom.py).
    "pidnet": Family(usual=_from_imagenet(labels=LABEL_SETS["cityscapes19"], by_corners=True)),
    "segformer": Family(
        usual=IMAGENET,
        reader=side_files.hugging_face,
        marks=("config.json", "preprocessor_config.json"),
    ),
    "sinet": Family(
        usual=Settings(
            scale=1.0,
            mean=(126.91212, 111.25247, 102.890434),
            std=(66.355705 * 255, 62.82138 * 255, 62.93292 * 255),
            order="bgr",
        )
    ),
    "smp": Family(usual=IMAGENET),
    "supergradients": Family(usual=IMAGENET, reader=side_files.ontology),
    # Its UNet, which is trained, and run by NVIDIA, on pictures turned to BGR.
    "tao": Family(
        usual=Settings(scale=FROM_BYTES, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), order="bgr")
    ),
    # The auxiliary head, where there is one, comes second.
    "torchvision": Family(usual=_from_imagenet(labels=LABEL_SETS["voc21"], head=0)),
    "twinlitenet": Family(
        usual=Settings(scale=FROM_BYTES, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), order="rgb")
    ),
    "ultralytics": Family(
        usual=Settings(
            scale=FROM_BYTES,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            order="rgb",
            resize="letterbox",
            licence="AGPL-3.0",
        ),
        reader=side_files.ultralytics_metadata,
        marks=("names", "imgsz", "task"),
    ),
}


def recognise(around: Surroundings) -> tuple[str, str]:
    """The family whose marks are all there, and which they are; two empty texts without one."""
    for name, family in FAMILIES.items():
        found = [mark for mark in family.marks if mark in around.metadata or around.find(mark)]
        if family.marks and len(found) == len(family.marks):
            return name, ", ".join(found)
    return "", ""


def told_by(name: str, around: Surroundings) -> list[Told]:
    """What the side files of a family say, then what is usual in it.

    Raises NetworkImportError that lists the known ones.
    """
    if name not in FAMILIES:
        raise NetworkImportError(f"unknown family {name!r}; known: {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[name]
    return [*family.reader(around), Told(f"usual for {name}", family.usual)]
