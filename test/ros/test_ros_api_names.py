"""Every rclpy and launch name and keyword in use exists in Humble's and Jazzy's sources."""

import pytest
from support.ros_sources import PROJECT, Sources, sources_root
from support.ros_usage import Usage

DISTRIBUTIONS = ("humble", "jazzy")
FILES = sorted([*PROJECT.glob("segmentation_node/ros/*.py"), *PROJECT.glob("launch/*.py")])

NODE = """
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
class Camera(LifecycleNode):
    def __init__(self):
        super().__init__('camera')
        self.publisher = self.create_publisher(str, 'topic', 1)
    def work(self):
        {}
"""


@pytest.fixture(scope="module", params=DISTRIBUTIONS)
def distribution(request):
    repositories = sources_root() / request.param
    if not repositories.is_dir():
        pytest.skip(
            f"ROS NAMES NOT CHECKED against {request.param}: no sources in {repositories}; "
            "put checkouts of launch, launch_ros, rclpy and rcl_interfaces there"
            " or set SEGMENTATION_ROS_SOURCES"
        )
    return request.param


@pytest.fixture(scope="module")
def sources(distribution):
    return Sources(sources_root() / distribution)


def own_module(path):
    if path.parent.name == "launch":
        return "ours." + path.stem  # apart from the ROS package `launch`
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_our_files_use_existing_names(sources, path):
    assert Usage(sources, own_module(path), path.read_text()).problems == []


def test_the_walk_reaches_calls_and_inherited_methods(sources):
    checked = set()
    for path in FILES:
        checked |= Usage(sources, own_module(path), path.read_text()).checked
    assert {"launch_ros.actions.Node", "Node(additional_env=)"} <= checked
    assert {"Node.declare_parameter", "ParameterDescriptor(description=)"} <= checked
    assert {"create_subscription(callback_group=)", "SegmentationNode.create_timer"} <= checked


def use(sources, text):
    return Usage(sources, "segmentation_node.ros.example", text)


def problems(sources, text):
    return [problem.split(": ")[-1] for problem in use(sources, text).problems]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("from rclpy.qos import QosProfile", "rclpy.qos.QosProfile"),
        ("import rclpy.nodes", "rclpy.nodes"),
        ("import rclpy\nrclpy.spin_forever()", "rclpy.spin_forever"),
        ("from rclpy.qos import QoSProfile\nQoSProfile(dept=1)", "QoSProfile(dept=)"),
        ("from launch_ros.actions import Node\nNode(exe='a')", "Node(exe=)"),
        ("from launch.actions import ExecuteProcess as E\nE(comand=[])", "ExecuteProcess(comand=)"),
        ("from rcl_interfaces.msg import ParameterDescriptor as P\nP(nam='')", None),
        ("from rcl_interfaces.msg import Parameter as P\nP().valu", "Parameter.valu"),
        ("from rcl_interfaces.msg import Parameter as P\nP().value.tipe", "ParameterValue.tipe"),
        (NODE.format("self.create_publicist()"), "Camera.create_publicist"),
        (NODE.format("self.create_timer(1.0, print, clok=None)"), "create_timer(clok=)"),
        (NODE.format("self.publisher.get_subscribers()"), "Publisher.get_subscribers"),
        (NODE.format("super().__init__('a', namespce='b')"), "LifecycleNode(namespce=)"),
        (NODE.format("ReliabilityPolicy.RELYABLE"), "ReliabilityPolicy.RELYABLE"),
        (NODE.format("self.get_clock().nows()"), None),
        (
            "def f(node: object):\n    node.create_wall_timer(1)",
            "SegmentationNode.create_wall_timer",
        ),
    ],
)
def test_a_wrong_name_is_found(sources, text, missing):
    found = problems(sources, text)
    assert len(found) == 1
    assert missing in (None, found[0])


@pytest.mark.parametrize(
    "text",
    [
        "from rclpy.qos import QoSProfile, ReliabilityPolicy as R\n"
        "QoSProfile(depth=1, reliability=R.RELIABLE).depth",
        "from rcl_interfaces.msg import Parameter as P\nP().value.type, P().name.upper()",
        "from launch_ros.actions import Node as N\nN(executable='a', additional_env={}, cwd='')",
        NODE.format("self.create_timer(1.0, print, clock=self.get_clock()).cancel()"),
        NODE.format("self.publisher.get_subscription_count()"),
        NODE.format("super().__init__('a', namespace='b', enable_communication_interface=False)"),
        NODE.format("self.declare_parameter('a', 1).value"),
        "from rclpy.clock import Clock, ClockType\nClock(clock_type=ClockType.STEADY_TIME).now()",
        NODE.format("return self.trigger_configure(), self.publisher.topic_name"),
    ],
)
def test_right_names_pass(sources, text):
    usage = use(sources, text)
    assert usage.problems == []
    assert usage.checked


def test_humble_lacks_event_handler(sources, distribution):
    text = "from rclpy.event_handler import SubscriptionEventCallbacks"
    assert bool(problems(sources, text)) == (distribution == "humble")


ALTERNATIVES = """
try:
    from rclpy.{} import SubscriptionEventCallbacks
except ImportError:
    from rclpy.{} import SubscriptionEventCallbacks
SubscriptionEventCallbacks(message_lost=print, {}=print)
"""


@pytest.mark.parametrize(
    ("first", "second", "keyword", "number"),
    [
        ("event_handler", "qos_event", "deadline", 0),
        ("qos_event", "event_handler", "deadline", 0),
        ("event_handler", "qos_event", "deadlines", 1),
        ("events", "qos_events", "deadline", 1),
    ],
)
def test_one_of_two_alternatives_must_exist(sources, first, second, keyword, number):
    text = ALTERNATIVES.format(first, second, keyword)
    assert len(problems(sources, text)) == number
