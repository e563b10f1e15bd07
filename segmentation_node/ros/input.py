"""The image subscription: there while work is asked for, with a QoS that fits the publishers."""

from typing import Any, Callable, List, NamedTuple, Optional, Union

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.qos import QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from segmentation_node.ros.parameters import Settings
from segmentation_node.ros.receiver import Receiver, ReceiverGroup

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks


class InputSettings(NamedTuple):
    """What an input needs to know, for those who are not the node."""

    transport: str
    reliability: str = "auto"
    frame_policy: str = "every"


class ImageInput:
    """Subscribes to ``name`` or its ``/compressed`` and follows the publishers' reliability."""

    def __init__(
        self,
        node: Any,
        settings: Union[Settings, InputSettings],
        on_message: Callable[[Any], None],
        on_lost: Callable[[int], None],
        name: str = "image",
        own_thread: bool = False,
    ) -> None:
        """With ``own_thread`` messages come on a thread of the input's, else by the executor."""
        self._node = node
        self._settings = settings
        self._on_message = on_message
        self._on_lost = on_lost
        self._own_thread = own_thread
        self._subscription: Optional[Any] = None
        self._receiver: Optional[Receiver] = None
        self._reliable = True
        base = node.resolve_topic_name(name)
        is_raw = settings.transport == "raw"
        self.topic = base if is_raw else base + "/compressed"
        self._message_type = Image if is_raw else CompressedImage

    @property
    def subscribed(self) -> bool:
        """Whether the subscription exists."""
        return self._subscription is not None

    @property
    def reliable(self) -> bool:
        """Whether the subscription asks for reliable delivery."""
        return self._reliable

    def update(self, wanted: bool) -> None:
        """Subscribe, drop the subscription, or make it anew when the publishers' QoS changed."""
        if not wanted:
            self.drop()
            return
        reliable = self._choose_reliability()
        if self._subscription is not None and reliable != self._reliable:
            self.drop()
        self._reliable = reliable
        if self._subscription is None:
            self._subscribe()

    def drop(self) -> None:
        """Take the subscription off the graph."""
        if self._receiver is not None:
            self._receiver.stop()
            self._receiver = None
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def publisher_count(self) -> int:
        """Publishers of the topic on the graph."""
        return len(self._publishers())

    def incompatible_publishers(self) -> int:
        """Publishers that offer less than the subscription asks for."""
        return sum(not _is_reliable(item) for item in self._publishers()) if self._reliable else 0

    def _publishers(self) -> List[Any]:
        return self._node.get_publishers_info_by_topic(self.topic)

    def _choose_reliability(self) -> bool:
        if self._settings.reliability != "auto":
            return self._settings.reliability == "reliable"
        # Before there is a publisher: reliable, so that nothing has to be made anew, and no frame
        # is missed meanwhile, when a reliable one appears.
        return all(_is_reliable(item) for item in self._publishers())

    def _subscribe(self) -> None:
        reliability = QoSReliabilityPolicy.BEST_EFFORT
        if self._reliable:
            reliability = QoSReliabilityPolicy.RELIABLE
        if self._settings.frame_policy == "every":
            qos = QoSProfile(history=QoSHistoryPolicy.KEEP_ALL, reliability=reliability)
        else:
            qos = QoSProfile(depth=1, reliability=reliability)
        self._subscription = self._node.create_subscription(
            self._message_type,
            self.topic,
            self._on_message,
            qos,
            # A new one each time: Humble's executor leaves a group blocked for good when its
            # subscription is destroyed between a message's arrival and its take.
            callback_group=(
                ReceiverGroup() if self._own_thread else MutuallyExclusiveCallbackGroup()
            ),
            event_callbacks=SubscriptionEventCallbacks(
                message_lost=lambda event: self._on_lost(event.total_count_change),
                # Said in the diagnostics, with the reason; rclpy would log it without.
                incompatible_qos=lambda event: None,
            ),
        )
        if self._own_thread:
            self._receiver = Receiver(self._node, self._subscription)


def _is_reliable(publisher_info: Any) -> bool:
    return bool(publisher_info.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE)
