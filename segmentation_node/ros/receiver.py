"""One subscription's messages, taken on a thread of their own and not by the executor.

At every wake-up rclpy's executors put all services, timers and events of a node into a new wait
set, in Python, and every image wakes them several times: 5 ms of a core for an image whose network
takes 30 ms on two. A wait set of this subscription alone costs next to nothing.
"""

import threading
import traceback
from contextlib import ExitStack
from typing import Any, Optional

from rclpy.callback_groups import CallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy

LOOK_NS = 500 * 10**6
PAUSE_AFTER_FAILURE_S = 0.1


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
    """Calls a subscription's callback, and those of its events, until it is stopped.

    The events belong here too: Humble's middleware wakes only one wait set for a subscription and
    its events.
    """

    def __init__(self, node: Any, subscription: Any) -> None:
        """The subscription's callback group is a ``ReceiverGroup``."""
        self._context = node.context
        self._logger = node.get_logger()
        self._subscription = subscription
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
            self._take_events(wait_set)
            if subscription.pointer not in wait_set.get_ready_entities("subscription"):
                return None
            taken = subscription.take_message(self._subscription.msg_type, False)
            return None if taken is None else taken[0]

    def _take_events(self, wait_set: Any) -> None:
        for event in self._events:
            if event.is_ready(wait_set):
                data = event.take_data()
                if data is not None:
                    event.callback(data)
