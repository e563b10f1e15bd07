"""What a segmentation node says of itself: its labels and its diagnostics."""

from collections import deque
from typing import Any, Deque, List

from diagnostic_msgs.msg import DiagnosticArray

from segmentation_msgs.msg import LabelInfo
from segmentation_node.ros.outputs import latched_qos

STATUSES_KEPT = 60


class NodeStatus:
    """Subscribes to one node's label info and diagnostics on behalf of another node."""

    def __init__(self, node: Any, target: str) -> None:
        self.label_info: Any = None
        self._prefix = target.strip("/") + ":"
        self._statuses: Deque[Any] = deque(maxlen=STATUSES_KEPT)
        node.create_subscription(
            LabelInfo, target + "/label_info", self._on_label_info, latched_qos()
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    @property
    def diagnostics(self) -> List[Any]:
        """The node's last statuses, oldest first."""
        return list(self._statuses)

    def _on_label_info(self, message: LabelInfo) -> None:
        self.label_info = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self._statuses.extend(
            status for status in message.status if status.name.startswith(self._prefix)
        )
