"""Which topics of a bag are meant: those named, or those that stand out."""

from typing import List, NamedTuple, Optional, Sequence

from segmentation_node.errors import BagError
from segmentation_node.evaluation.bags.messages import DETECTIONS, FRAME_LATENCY, IMAGE_TYPES
from segmentation_node.evaluation.bags.records import BETWEEN_TYPES, Report, Topic

TRUTH_TOPIC = "/ground_truth"
TRUE_BOXES_TOPIC = "/ground_truth/detections"
# What the node publishes beside its class map; neither a camera nor labels.
DERIVED = ("overlay", "confidence", "class_map", "ground_truth")
# Images of distances, by the names that their drivers give them.
NO_CAMERA = ("depth", "disparity")


class Topics(NamedTuple):
    """The topics of a bag's frames; ``None`` where there is none."""

    image: Optional[Topic]
    truth: Optional[Topic]
    prediction: Optional[Topic] = None
    latency: Optional[Topic] = None
    true_boxes: Optional[Topic] = None
    boxes: Optional[Topic] = None


def choose_topics(
    topics: Sequence[Topic],
    note: Report,
    image: Optional[str] = None,
    truth: Optional[str] = None,
    prediction: Optional[str] = None,
) -> Topics:
    """The topics of the frames: those named, and where none is named those that stand out.

    The image is the one camera of the bag, raw rather than compressed, and depth is none; ground
    truth is ``/ground_truth``, true boxes are ``/ground_truth/detections``, a prediction is
    ``.../class_map``; latency and boxes are those beside that. An empty name means none. A topic
    without messages stands out only where there is no other; where a compressed topic is passed
    over that has more messages than its raw one, ``note`` takes a line. Raises BagError that lists
    the topics where a name or a choice fails, and where a topic that is read has several types.
    """
    truths = [TRUTH_TOPIC, TRUTH_TOPIC + "/compressed"]
    truth_topic = _named(topics, note, truth, truths, "--truth-topic")
    maps = [topic.name for topic in topics if base_name(topic.name).endswith("/class_map")]
    prediction_topic = _named(topics, note, prediction, maps, "--prediction-topic")
    option = "--image-topic; of make demo: TOPIC="
    image_topic = _named(topics, note, image, _cameras(topics), option)
    latency = boxes = None
    if prediction_topic is not None:
        node = base_name(prediction_topic.name).rsplit("/", 1)[0]
        latency = _of_type(topics, node + "/latency", FRAME_LATENCY)
        boxes = _of_type(topics, node + "/detections", DETECTIONS)
    true_boxes = _of_type(topics, TRUE_BOXES_TOPIC, DETECTIONS)
    return Topics(image_topic, truth_topic, prediction_topic, latency, true_boxes, boxes)


def listed(topics: Sequence[Topic]) -> str:
    """The topics on one line, with type and count."""
    if not topics:
        return "no topics"
    return ", ".join("%s (%s, %d)" % (topic.name, topic.type, topic.count) for topic in topics)


def foreign(topics: Sequence[Topic]) -> str:
    """What a file that holds no ROS 2 message is, and what makes a bag of it; empty for others."""
    encodings = sorted({topic.type.partition(" ")[0] for topic in topics if " " in topic.type})
    if not topics or len([topic for topic in topics if " " in topic.type]) < len(topics):
        return ""
    if "ros1" in encodings:
        way = "rosbags-convert makes a ROS 2 bag of the .bag file that it was made of"
    else:
        way = "write them as ROS 2 messages (CDR), as the Python package mcap-ros2-support does"
    found = "no ROS 2 messages but %s: %s" % (", ".join(encodings), listed(topics))
    return "%s; %s" % (found, way)


def of_one_type(topic: Topic) -> Topic:
    """The topic, which is to be read. Raises BagError where it has several types."""
    types = topic.type.split(BETWEEN_TYPES)
    if len(types) > 1:
        raise BagError(
            "topic %s has several types, %s; expected one: read the bag's files one by one"
            % (topic.name, " and ".join(types))
        )
    return topic


def base_name(name: str) -> str:
    """A topic's name without ``/compressed``."""
    return name[: -len("/compressed")] if name.endswith("/compressed") else name


def _of_type(topics: Sequence[Topic], name: str, type_: str) -> Optional[Topic]:
    return next((topic for topic in topics if (topic.name, topic.type) == (name, type_)), None)


def _named(
    topics: Sequence[Topic],
    note: Report,
    name: Optional[str],
    candidates: List[str],
    option: str,
) -> Optional[Topic]:
    images = {topic.name: topic for topic in topics if _is_image(topic)}
    if name is None:
        found = [images[candidate] for candidate in candidates if candidate in images]
        return _standing_out(found, note, option)
    if not name:
        return None
    name = "/" + name.strip("/")
    if name not in images:
        raise BagError("no image topic %s in the bag; it has %s" % (name, listed(topics)))
    return of_one_type(images[name])


def _standing_out(found: List[Topic], note: Report, option: str) -> Optional[Topic]:
    """The one that is meant; None of none."""
    found = [topic for topic in found if topic.count] or found[:1]
    if not found:
        return None
    if len({base_name(topic.name) for topic in found}) > 1:
        raise BagError(
            "several topics could be meant, name one (%s): %s"
            % (option, ", ".join(t.name for t in found))
        )
    chosen = next((topic for topic in found if topic.type == IMAGE_TYPES[0]), found[0])
    for topic in found:
        if topic.count > chosen.count:
            note(
                "%s is read, which has %d messages; %s has %d, and may be named (%s)"
                % (chosen.name, chosen.count, topic.name, topic.count, option)
            )
    return of_one_type(chosen)


def _is_image(topic: Topic) -> bool:
    return not set(IMAGE_TYPES).isdisjoint(topic.type.split(BETWEEN_TYPES))


def _cameras(topics: Sequence[Topic]) -> List[str]:
    return [
        topic.name
        for topic in topics
        if _is_image(topic)
        and base_name(topic.name).rsplit("/", 1)[-1] not in DERIVED
        and not any(word in topic.name.lower() for word in NO_CAMERA)
    ]
