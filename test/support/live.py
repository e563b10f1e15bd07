"""The test's side of a live graph, and the node under test as a process of its own."""

import array
import itertools
import time

import pytest

try:
    import rclpy

    from segmentation_msgs.msg import FrameLatency, LabelInfo
except ImportError as error:
    pytest.skip(
        "ROS TESTS NOT RUN: %s. Run them with tools/run python -m pytest after make setup" % error,
        allow_module_level=True,
    )

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from segmentation_node.evaluation.live.target import NodeProcess
from segmentation_node.ros.node import SegmentationNode
from segmentation_node.ros.outputs import latched_qos

# A test imports messages from here, so that it is skipped, loudly, where ROS is missing.
__all__ = [
    "Clock",
    "CompressedImage",
    "FrameLatency",
    "Header",
    "Image",
    "LabelInfo",
    "ParameterType",
    "Time",
]

TIMEOUT_S = 60.0  # the machine may be busy; nothing here waits this long when all is well
REPEAT_AFTER_S = 5.0
LEVELS = {b"\x00": "OK", b"\x01": "WARN", b"\x02": "ERROR", b"\x03": "STALE"}
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "shutdown": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}
RELIABLE = QoSProfile(history=QoSHistoryPolicy.KEEP_ALL, reliability=QoSReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)

_numbers = itertools.count(1)


class Peer:
    """One node of the test process, spun while the test waits."""

    def __init__(self):
        self.node = rclpy.create_node("peer_%d" % next(_numbers))
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._executor.shutdown()
        self.node.destroy_node()

    def until(self, condition, what, timeout_s=TIMEOUT_S):
        """Spin until the condition gives something true, and return it."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            found = condition()
            if found:
                return found
            assert time.monotonic() < deadline_s, "not within %.0f s: %s" % (timeout_s, what)
            self._executor.spin_once(timeout_sec=0.05)

    def spin_for(self, duration_s):
        """Handle what arrives meanwhile."""
        deadline_s = time.monotonic() + duration_s
        while time.monotonic() < deadline_s:
            self._executor.spin_once(timeout_sec=max(0.0, deadline_s - time.monotonic()))

    def listen(self, message_type, topic, qos=RELIABLE):
        """A subscription that keeps what it gets."""
        return Listener(self.node, message_type, topic, qos)


class Services:
    """What a node of the test offers to be called.

    The middleware drops a response whose reader it has not found yet, and a request that changes
    something can't be repeated. It finds readers in the order in which they were made: a node that
    has told its state to a newer one has found those before.
    """

    def __init__(self, peer, node_name):
        self.peer, self.node_name = peer, node_name
        self._clients = {}

    def close(self):
        """Forget its services."""
        for client in self._clients.values():
            self.peer.node.destroy_client(client)
        self._clients.clear()

    def call(self, service_type, service, request):
        """The response of one of them."""
        if service not in self._clients:
            self._clients[service] = self._client(service_type, service)
            self.state()
        future = self._clients[service].call_async(request)
        self.peer.until(future.done, "response of %s/%s" % (self.node_name, service))
        return future.result()

    def state(self):
        """The node's lifecycle state, which may be asked for again."""
        client = self._client(GetState, "get_state")
        asked = [client.call_async(GetState.Request())]
        first_s = time.monotonic()

        def answered():
            if time.monotonic() > first_s + REPEAT_AFTER_S * len(asked):
                asked.append(client.call_async(GetState.Request()))
            return [future for future in asked if future.done()]

        future = self.peer.until(answered, "state of " + self.node_name)[0]
        self.peer.node.destroy_client(client)
        return future.result().current_state.label

    def _client(self, service_type, service):
        name = self.node_name + "/" + service
        client = self.peer.node.create_client(service_type, name)
        self.peer.until(client.service_is_ready, "service " + name)
        return client


class Listener:
    """What came on a topic; under ``with`` it ends with the block."""

    def __init__(self, node, message_type, topic, qos):
        self.messages = []
        self._node = node
        self._subscription = node.create_subscription(
            message_type, topic, self.messages.append, qos
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)


class LiveNode:
    """The node under test, with a name and an image topic of its own."""

    def __init__(self, peer, parameters, log_path, remaps=()):
        number = next(_numbers)
        self.peer = peer
        self.name = "/seg_%d" % number
        self.namespace = "/camera_%d" % number
        self.image_topic = self.namespace + "/image"
        self.services = Services(peer, self.name)
        self._log_path = log_path / ("node_%d.log" % number)
        self._diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
        self._labels = peer.listen(LabelInfo, self.name + "/label_info", latched_qos())
        self._log = open(self._log_path, "wb")
        self._publishers = []
        own = ["__node:=" + self.name[1:], "image:=" + self.image_topic]
        for name in parameters.get("cameras", ()):
            if str(name).isidentifier():
                own.append("%s/image:=%s" % (name, self.input_of(name)))
        self.process = NodeProcess(parameters, own + list(remaps), self._log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stop()
        for publisher in self._publishers:
            self.peer.node.destroy_publisher(publisher)
        self.services.close()
        self._diagnostics.close()
        self._labels.close()
        self._log.close()

    def input_of(self, camera):
        """The image topic of one of its several cameras."""
        return "%s/%s/image" % (self.namespace, camera)

    @property
    def log(self):
        """What it printed so far."""
        return self._log_path.read_text(errors="replace")

    @property
    def statuses(self):
        """Its diagnostics so far."""
        return self.statuses_of("segmentation")

    def statuses_of(self, name):
        """Those of the node itself, ``segmentation``, or of one of its cameras."""
        found = [status for message in self._diagnostics.messages for status in message.status]
        return [status for status in found if status.name == "%s: %s" % (self.name[1:], name)]

    @property
    def label_info(self):
        """The newest labels, or None."""
        return self._labels.messages[-1] if self._labels.messages else None

    def until(self, condition, what):
        """As the peer's, while the process lives."""

        def checked():
            assert self.process.process.poll() is None, "the node ended:\n" + self.log
            return condition()

        try:
            return self.peer.until(checked, what)
        except AssertionError as failure:
            last = [describe(status) for status in self.statuses[-2:]]
            raise AssertionError("%s\n%s\n%s" % (failure, last, self.log[-3000:])) from None

    def status(self, level, *fragments, of="segmentation"):
        """The first of its reports from now on with this level and these parts in the reason."""
        seen = len(self.statuses_of(of))

        def fits(status):
            said = all(fragment in status.message for fragment in fragments)
            return LEVELS[status.level] == level and said

        def found():
            return [status for status in self.statuses_of(of)[seen:] if fits(status)]

        return self.until(found, "%s %s in the diagnostics" % (level, fragments))[0]

    def publisher(self, message_type=Image, qos=RELIABLE, topic=None):
        """A camera on its image topic."""
        found = self.peer.node.create_publisher(message_type, topic or self.image_topic, qos)
        self._publishers.append(found)
        return found

    def camera(self, message_type=Image, qos=RELIABLE, topic=None):
        """The same, once the node has subscribed to it; something has to ask for results."""
        found = self.publisher(message_type, qos, topic)
        self.until(found.get_subscription_count, "subscription to the camera")
        return found

    def listen(self, message_type, topic):
        """Listen to one of its private topics, found by both sides."""
        return self.peer.listen(message_type, self.name + topic)

    def active(self):
        """Wait until it is."""
        self.until(lambda: self.state() == "active", "the node to be active")
        return self

    def state(self):
        """Its lifecycle state."""
        return self.services.state()

    def call(self, service_type, service, request):
        """The response of one of its services."""
        return self.services.call(service_type, service, request)

    def change(self, transition):
        """Whether the transition succeeded."""
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[transition]
        return self.call(ChangeState, "change_state", request).success

    def set(self, name, value):
        """Set a parameter; the result tells whether and why not."""
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg()]
        return self.call(SetParameters, "set_parameters", request).results[0]

    def get(self, names):
        """Parameter values as messages."""
        request = GetParameters.Request(names=names)
        return self.call(GetParameters, "get_parameters", request).values

    def describe(self, names):
        """Parameter descriptors."""
        request = DescribeParameters.Request(names=names)
        return self.call(DescribeParameters, "describe_parameters", request).descriptors

    def exit_code(self, timeout_s=TIMEOUT_S):
        """Its exit code once it has ended by itself."""
        process = self.process.process
        self.peer.until(lambda: process.poll() is not None, "end of the process", timeout_s)
        return process.returncode


class Round:
    """Sends frames and waits for class map and latency of each; under ``with``."""

    def __init__(self, node):
        self._node = node
        self._maps = node.listen(Image, "/class_map")
        self._latencies = node.listen(FrameLatency, "/latency")
        self.camera = node.camera()
        node.until(
            lambda: all(
                node.peer.node.count_publishers(node.name + topic)
                for topic in ("/class_map", "/latency")
            ),
            "class map and latency topics",
        )
        self.settle()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._maps.close()
        self._latencies.close()

    def settle(self):
        """Send frames until one comes back whole: then both sides have found each other."""
        pixels = bytes(64 * 48 * 3)

        def whole():
            sent = image_message(pixels, (48, 64), "rgb8", stamp=next(_stamps))
            self.camera.publish(sent)
            self._node.peer.spin_for(0.3)
            return self._maps.messages and self._latencies.messages

        self._node.until(whole, "a first frame")
        # What is still under way must not be taken for a later frame's result.
        self._node.peer.spin_for(0.2)

    def __call__(self, message):
        """Class map and latency of a good frame."""
        self.camera.publish(message)
        stamp = message.header.stamp
        class_map = self._node.until(lambda: _with_stamp(self._maps, stamp), "the class map")
        latency = self._node.until(lambda: _with_stamp(self._latencies, stamp), "the latency")
        return class_map, latency


def _with_stamp(listener, stamp):
    return next((item for item in listener.messages if item.header.stamp == stamp), None)


_stamps = (Time(sec=second, nanosec=5) for second in itertools.count(1000))


def image_message(data, size, encoding, step=None, stamp=None, frame_id="camera", big=False):
    """A sensor_msgs/Image; without ``step`` as long as the data's rows, without stamp a new one."""
    data = bytes(data)
    message = Image(encoding=encoding, is_bigendian=int(big))
    message.header = Header(stamp=stamp or next(_stamps), frame_id=frame_id)
    message.height, message.width = size
    message.step = len(data) // max(1, size[0]) if step is None else step
    message.data = array.array("B", data)
    return message


def compressed_message(data, kind="jpeg", stamp=None):
    """A sensor_msgs/CompressedImage."""
    message = CompressedImage(format="rgb8; %s compressed bgr8" % kind)
    message.header = Header(stamp=stamp or next(_stamps), frame_id="camera")
    message.data = array.array("B", bytes(data))
    return message


def describe(status):
    """A status in one line."""
    return "%s %s" % (LEVELS[status.level], status.message)


def values_of(status):
    """A status's keys and values."""
    return {item.key: item.value for item in status.values}


def refusal(parameters, capfd):
    """The one line of a node that cannot be configured; made in this process, which has rclpy."""
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    node = SegmentationNode("refused_%d" % next(_numbers), parameter_overrides=overrides)
    try:
        assert not node.autostart()
    finally:
        node.stop()
        node.destroy_node()
    (line,) = error_lines(capfd.readouterr().err)
    return line


def error_lines(log):
    """The lines of a node's log that say an error."""
    return [line for line in log.splitlines() if "[ERROR]" in line or "Traceback" in line]
