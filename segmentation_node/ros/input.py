"""The image subscription: there while work is asked for, with a QoS that fits the publishers."""

import threading
import traceback
from contextlib import ExitStack
from typing import Any, Callable, List, NamedTuple, Optional, Union

from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from segmentation_node.accounting import MOST_AT_ONCE, SequenceGaps
from segmentation_node.ros.memory import give_memory_back
from segmentation_node.ros.parameters import Settings

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# Under ``every`` a thread takes images at once and they wait in the node, where they are counted.
# What the middleware holds meanwhile is bounded, or it would grow by whatever the thread is late.
EVERY_DEPTH = 50
LOOK_NS = 500 * 10**6
PAUSE_AFTER_FAILURE_S = 0.1


class InputSettings(NamedTuple):
    """What an input needs to know, for those who are not the node."""

    transport: str
    reliability: str = "auto"
    frame_policy: str = "every"


class ImageInput:
    """Subscribes to ``name`` or its ``/compressed`` and follows the publishers' reliability."""

    def __init__(
        self,
        node: Node,
        settings: Union[Settings, InputSettings],
        on_message: Callable[[Any], None],
        on_lost: Callable[[int], None],
        name: str = "image",
        own_thread: bool = False,
        on_missed: Callable[[int], None] = lambda frames: None,
    ) -> None:
        """With ``own_thread`` messages come on a thread of the input's, else by the executor.

        ``on_lost`` gets the number of messages that the middleware reports as lost, ``on_missed``
        that of messages which it silently left out, known on a thread of its own only.
        """
        self._node = node
        self._settings = settings
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_missed = on_missed
        self._own_thread = own_thread
        self._gaps = SequenceGaps()
        self._subscription: Optional[Any] = None
        self._receiver: Optional[Receiver] = None
        self._reliable = True
        is_raw = settings.transport == "raw"
        # A node remaps the names that it is given: what is remapped already could be so again.
        self._name = name if is_raw else node.resolve_topic_name(name) + "/compressed"
        self.topic = node.resolve_topic_name(self._name)
        self._message_type = Image if is_raw else CompressedImage
        self._type_name = "sensor_msgs/msg/" + self._message_type.__name__

    @property
    def knows_missed(self) -> bool:
        """Whether the messages' numbers tell which of them the middleware silently left out."""
        return self._gaps.known

    def update(self, wanted: bool) -> None:
        """Subscribe, drop the subscription, or make it anew when the publishers' QoS changed.

        To be called again and again: what was missed is told here.
        """
        publishers = self._publishers()
        self._settle(publishers)
        if not wanted:
            self.drop()
            return
        reliable = self._choose_reliability(publishers)
        if self._subscription is not None and reliable != self._reliable:
            self.drop()
        self._reliable = reliable
        if self._subscription is None:
            self._subscribe()
            self._settle(publishers)  # from whom its first messages are

    def drop(self) -> None:
        """Take the subscription off the graph."""
        if self._receiver is not None:
            self._receiver.stop()
            self._receiver = None
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._settle_last()
            give_memory_back()

    def publisher_count(self) -> int:
        """Publishers of images on the topic, on the graph."""
        return len(self._publishers())

    def incompatible_publishers(self) -> int:
        """Publishers that offer less than ``input.reliability`` asks for."""
        if self._settings.reliability != "reliable":
            return 0
        return sum(not _is_reliable(item) for item in self._publishers())

    def misfit(self) -> str:
        """The type of the topic where all its publishers have another one; else empty."""
        types = [item.topic_type for item in self._node.get_publishers_info_by_topic(self._name)]
        return types[0] if types and self._type_name not in types else ""

    def _publishers(self) -> List[Any]:
        found = self._node.get_publishers_info_by_topic(self._name)
        return [item for item in found if item.topic_type == self._type_name]

    def _settle(self, publishers: List[Any]) -> None:
        missed = self._gaps.settle([tuple(item.endpoint_gid) for item in publishers])
        if missed:
            self._on_missed(missed)

    def _settle_last(self) -> None:
        """Once nothing comes any more, and all that was lost is reported."""
        try:
            publishers = self._publishers()
        except RuntimeError:  # rclpy's RCLError: ROS was shut down before the node was stopped
            return
        for _ in range(2):
            self._settle(publishers)

    def _choose_reliability(self, publishers: List[Any]) -> bool:
        if self._settings.reliability != "auto":
            return self._settings.reliability == "reliable"
        if self._subscription is not None and not publishers:
            return self._reliable  # a camera that is started anew offers what it did
        # Before there is a publisher: reliable, so that nothing has to be made anew, and no frame
        # is missed meanwhile, when a reliable one appears.
        return all(_is_reliable(item) for item in publishers)

    def _qos(self) -> QoSProfile:
        reliability = QoSReliabilityPolicy.BEST_EFFORT
        if self._reliable:
            reliability = QoSReliabilityPolicy.RELIABLE
        if self._settings.frame_policy == "latest":
            return QoSProfile(depth=1, reliability=reliability)
        if self._own_thread:
            return QoSProfile(depth=EVERY_DEPTH, reliability=reliability)
        return QoSProfile(history=QoSHistoryPolicy.KEEP_ALL, reliability=reliability)

    def _subscribe(self) -> None:
        self._gaps = SequenceGaps()
        self._subscription = self._node.create_subscription(
            self._message_type,
            self._name,
            self._on_message,
            self._qos(),
            # A new one each time: Humble's executor leaves a group blocked for good when its
            # subscription is destroyed between a message's arrival and its take.
            callback_group=(
                ReceiverGroup() if self._own_thread else MutuallyExclusiveCallbackGroup()
            ),
            event_callbacks=SubscriptionEventCallbacks(
                message_lost=lambda event: self._lose(event.total_count_change),
                # Said in the diagnostics, with the reason; rclpy would log it without.
                incompatible_qos=lambda event: None,
            ),
        )
        if self._own_thread:
            self._receiver = Receiver(self._node, self._subscription, self._gaps.come)

    def _lose(self, messages: int) -> None:
        if messages >= MOST_AT_ONCE:
            return
        self._gaps.lose(messages)
        self._on_lost(messages)


class ReceiverGroup(CallbackGroup):
    """The callback group of a subscription, and of its events, that the executor leaves alone."""

    def can_execute(self, entity: Any) -> bool:
        """Never, for an executor."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never, for an executor."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing began."""


class Receiver:
    """Takes one subscription's messages on a thread of its own, until it is stopped.

    At every wake-up rclpy's executors put all services, timers and events of a node into a new
    wait set, in Python, and every image wakes them several times: 5 ms of a core for an image
    whose network takes 30 ms on two. A wait set of this subscription alone costs next to nothing.

    The events belong here too: Humble's middleware wakes only one wait set for a subscription and
    its events.
    """

    def __init__(
        self, node: Node, subscription: Any, on_number: Callable[[Optional[int]], None]
    ) -> None:
        """The subscription's callback group is a ``ReceiverGroup``.

        ``on_number`` gets each message's number of its publisher's, before the message is handed
        over; None where rclpy does not say it (Humble).
        """
        self._context = node.context
        self._logger = node.get_logger()
        self._subscription = subscription
        self._on_number = on_number
        self._events = list(subscription.event_handlers)
        self._stopping = threading.Event()
        self._woken = GuardCondition(None, None, context=node.context)
        self._thread = threading.Thread(target=self._run, name="image receiver", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more messages; does not wait for a callback that runs.

        The subscription may be destroyed at once: rclpy keeps it until this thread has let go.
        """
        self._stopping.set()
        self._woken.trigger()

    def _run(self) -> None:
        wait_set = _rclpy.WaitSet(1, 1, 0, 0, 0, len(self._events), self._context.handle)
        while not self._stopping.is_set() and self._context.ok():
            try:
                message = self._next(wait_set)
                if message is not None and not self._stopping.is_set():
                    self._subscription.callback(message)
            except InvalidHandle:  # the subscription was destroyed
                break
            except Exception:  # without this thread the node would hear nothing ever again
                self._logger.error(traceback.format_exc(), throttle_duration_sec=1.0)
                self._stopping.wait(PAUSE_AFTER_FAILURE_S)

    def _next(self, wait_set: Any) -> Optional[Any]:
        """Wait; the message that came, or None when something else did."""
        subscription = self._subscription.handle
        with ExitStack() as in_use:
            for handle in (self._context.handle, subscription, self._woken.handle, *self._events):
                in_use.enter_context(handle)
            wait_set.clear_entities()
            wait_set.add_subscription(subscription)
            wait_set.add_guard_condition(self._woken.handle)
            for event in self._events:
                event.add_to_wait_set(wait_set)
            wait_set.wait(LOOK_NS)
            if self._stopping.is_set():  # the books of this subscription are closed
                return None
            self._take_events(wait_set)
            if subscription.pointer not in wait_set.get_ready_entities("subscription"):
                return None
            taken = subscription.take_message(self._subscription.msg_type, False)
        if taken is None:
            return None
        message, about = taken
        self._on_number(about.get("publication_sequence_number"))
        return message

    def _take_events(self, wait_set: Any) -> None:
        for event in self._events:
            if event.is_ready(wait_set):
                data = event.take_data()
                if data is not None:
                    event.callback(data)


def _is_reliable(publisher_info: Any) -> bool:
    return bool(publisher_info.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE)
