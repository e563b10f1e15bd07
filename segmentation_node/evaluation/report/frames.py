"""The page's frames with their pictures."""

from typing import List, Optional, Sequence

from segmentation_node.evaluation.report.markup import Markup, element
from segmentation_node.evaluation.report.parts import section, swatch
from segmentation_node.evaluation.report.pictures import pictures
from segmentation_node.evaluation.report.text import percent
from segmentation_node.evaluation.run.best_and_worst import Example
from segmentation_node.evaluation.run.run import Run

IOU_TEXT = "mean IoU %s %%"
CHANGED_TEXT = "%s %% of pixels change class"


def example_frames(run: Run) -> Optional[Markup]:
    """The best and the worst frames with their pictures; the ones that change most."""
    parts = _chosen(run, "Lowest mean IoU", run.examples.lowest(), IOU_TEXT)
    parts += _chosen(run, "Highest mean IoU", run.examples.highest(), IOU_TEXT)
    changed = run.changed_examples
    parts += _chosen(run, "Most pixels change class", changed.highest(), CHANGED_TEXT)
    if not run.accuracy.frames:
        parts += _chosen(run, "Fewest pixels change class", changed.lowest(), CHANGED_TEXT)
    if not parts:
        return None
    text = "Errors and changed pixels are red; pixels without a label are blue."
    parts = [*_legends(run), element("p", text, class_="soft"), *parts]
    return section("Best and worst frames", *parts)


def _chosen(run: Run, title: str, examples: Sequence[Example], text: str) -> List[Markup]:
    if not examples:
        return []
    return [element("h3", title)] + [_example(run, example, text) for example in examples]


def _example(run: Run, example: Example, text: str) -> Markup:
    shown = [
        element(
            "div",
            element("img", src=picture.uri, alt="%s of %s" % (picture.caption, example.name)),
            picture.caption,
        )
        for picture in pictures(example, run.predicted, run.truth)
    ]
    caption = element(
        "figcaption", element("b", example.name), " · " + text % percent(example.score)
    )
    return element("figure", caption, element("div", *shown, class_="pictures"))


def _legends(run: Run) -> List[Markup]:
    sets = {run.predicted.name: run.predicted}
    if run.truth is not None:
        sets[run.truth.name] = run.truth
    return [
        element(
            "ul",
            *[
                element("li", swatch(labels, index), name)
                for index, name in enumerate(labels.names)
            ],
            class_="legend",
            aria_label="Colours of %s" % labels.name,
        )
        for labels in sets.values()
    ]
