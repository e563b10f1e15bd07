"""The lifecycle node: camera images in; class map, overlay, latency and diagnostics out."""

import threading
import time
import traceback
from typing import Any, Callable, Optional, Tuple

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from segmentation_msgs.msg import LabelInfo
from segmentation_node.accounting import FrameCounters, LatencyStatistics
from segmentation_node.backends import BackendChoice, choose_backend
from segmentation_node.errors import SegmentationError
from segmentation_node.model_card import ModelCard, open_model
from segmentation_node.pipeline import Segmenter, open_segmenter
from segmentation_node.ros.conversions import RgbConverter, choose_converter, decode_compressed
from segmentation_node.ros.input import ImageInput
from segmentation_node.ros.outputs import Outputs, label_info, latched_qos, vision_label_info
from segmentation_node.ros.parameters import NodeParameters, Settings
from segmentation_node.ros.processor import FrameProcessor
from segmentation_node.ros.reporting import Loaded, Reporter
from segmentation_node.ros.worker import Frame, FrameQueue, Worker

DEMAND_PERIOD_S = 0.1
DIAGNOSTICS_PERIOD_S = 1.0
STOP_TIMEOUT_S = 30.0


class SegmentationNode(LifecycleNode):
    """Configures (loads the model), activates (subscribes while there is demand), and reports.

    The reporter reads ``state``, ``error``, ``loaded``, ``demanded`` and ``input_since_ns``.
    """

    def __init__(self, name: str = "segmentation_node", **node_arguments: Any) -> None:
        super().__init__(name, **node_arguments)
        self.parameters = NodeParameters(self)
        self.counters = FrameCounters()
        self.statistics = LatencyStatistics()
        self.state = "unconfigured"
        self.error = ""  # why configuring failed; empty when it did not
        self.loaded: Optional[Loaded] = None
        self.demanded = False
        self.input_since_ns = 0
        self._stopped = False
        # Transitions and the demand timer run on different threads and share the subscription.
        self._demand_lock = threading.RLock()
        self._reporter = Reporter(self, self.parameters, self.counters, self.statistics)
        self._label_info = self.create_publisher(LabelInfo, "~/label_info", latched_qos())
        self._vision_label_info: Any = None
        self._start_timers()

    def autostart(self) -> bool:
        """Configure and activate; whether both went well."""
        done = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == done and self.trigger_activate() == done

    def report(self) -> None:
        """Publish the diagnostics now."""
        self._reporter.report()

    def report_last(self, timeout_s: float) -> None:
        """Publish the diagnostics and see them delivered: the process is about to exit."""
        self._reporter.report_last(timeout_s)

    # Transitions. rclpy swallows what they raise, so nothing may escape unreported.

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the model, make the topics."""
        return self._guarded(self._configure, TransitionCallbackReturn.FAILURE)

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Start to take images, as soon as anybody listens."""
        done = super().on_activate(state)
        return self._guarded(self._start) if done == TransitionCallbackReturn.SUCCESS else done

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Stop taking images; the frame in hand is finished and published."""
        self._guarded(self._pause)
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Free the model and the topics."""
        return self._guarded(lambda: self._release("unconfigured"))

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """The same, for good."""
        return self._guarded(lambda: self._release("finalized"))

    def on_error(self, state: Any) -> TransitionCallbackReturn:
        """Come back to unconfigured after a transition that went wrong; ``error`` says why."""
        return self._guarded(lambda: self._release("unconfigured"))

    def stop(self) -> None:
        """End cleanly from any state, within the frame in hand; the process is about to exit."""
        if not self._stopped:
            self._stopped = True
            self._release("finalized")

    def _guarded(
        self,
        action: Callable[[], None],
        failed: TransitionCallbackReturn = TransitionCallbackReturn.ERROR,
    ) -> TransitionCallbackReturn:
        try:
            action()
        except SegmentationError as error:
            self._fail(str(error))
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            self._fail("%s: %s" % (type(error).__name__, error))
        else:
            return TransitionCallbackReturn.SUCCESS
        return failed

    def _fail(self, line: str) -> None:
        self.error = line
        self.get_logger().error(line)
        self.report()

    # What the transitions do

    def _configure(self) -> None:
        self.error = ""
        self.state = "configuring"
        try:
            self.loaded = self._load()
        except Exception:
            self.state = "unconfigured"
            raise
        self.parameters.configured = True
        self.parameters.has_confidence = self.loaded.segmenter.backend.has_confidence
        self.state = "inactive"

    def _load(self) -> Loaded:
        problems = self.parameters.problems()
        if problems:
            raise SegmentationError("; ".join(problems))
        settings = self.parameters.settings()
        card = open_model(settings.model)
        self._check_threshold(card)
        asked = "as the parameter backend asks"
        choice = BackendChoice(settings.backend, asked, asked)
        if settings.backend == "auto":
            choice = choose_backend(card, settings.options)
        queue = FrameQueue(settings.frame_policy, self.counters)
        worker = Worker(
            lambda: open_segmenter(card, choice.name, settings.options, settings.output_resolution),
            self._work,
            Segmenter.close,
            queue,
        )
        segmenter = worker.start()
        self.get_logger().info(
            "model %s, backend %s on %s (%s)"
            % (card.name, choice.name, segmenter.backend.device, choice.summary)
        )
        for line in segmenter.backend.warnings:
            self.get_logger().warning(line)
        try:
            parts = self._make_topics(segmenter, settings)
            self._publish_labels(card)
        except Exception:
            worker.stop(STOP_TIMEOUT_S)
            raise
        return Loaded(settings, segmenter, choice.details, queue, worker, *parts)

    def _check_threshold(self, card: ModelCard) -> None:
        threshold = self.parameters["confidence.threshold"]
        if threshold > 0 and "confidence" not in card.outputs:
            raise SegmentationError(
                "confidence.threshold is %g, but model %s gives no confidence; set it to 0 or "
                "choose another model" % (threshold, card.name)
            )

    def _make_topics(
        self, segmenter: Segmenter, settings: Settings
    ) -> Tuple[Outputs, ImageInput, FrameProcessor]:
        if self._stopped:
            raise SegmentationError("told to stop while configuring")
        image_input = ImageInput(
            self, settings, self._on_image, self.counters.lose, own_thread=True
        )
        outputs = Outputs(self, segmenter.backend.has_confidence, settings.frame_policy)
        return outputs, image_input, FrameProcessor(self, outputs, self._converter(settings))

    def _converter(self, settings: Settings) -> RgbConverter:
        if settings.transport == "compressed":
            return decode_compressed
        converter, reason = choose_converter()
        self.get_logger().info(reason)
        return converter

    def _publish_labels(self, card: ModelCard) -> None:
        stamp = self.get_clock().now().to_msg()
        self._label_info.publish(label_info(card, stamp))
        message = vision_label_info(card, stamp)
        if message is not None:
            if self._vision_label_info is None:
                self._vision_label_info = self.create_publisher(
                    type(message), "~/vision_label_info", latched_qos()
                )
            self._vision_label_info.publish(message)

    def _start(self) -> None:
        assert self.loaded is not None
        self.counters.reset()
        self.loaded.queue.open()
        self.state = "active"
        self._follow_demand()

    def _pause(self) -> None:
        self._stop_input("inactive")
        if self.loaded is not None and not self.loaded.queue.settle(STOP_TIMEOUT_S):
            self.get_logger().error("a frame was not finished within %.0f s" % STOP_TIMEOUT_S)

    def _release(self, state: str) -> None:
        self._stop_input(state)
        loaded = self.loaded
        if loaded is not None:
            if not loaded.worker.stop(STOP_TIMEOUT_S):
                self.get_logger().error("the backend did not end within %.0f s" % STOP_TIMEOUT_S)
            with self._demand_lock:
                self.loaded = None
            loaded.outputs.destroy()
        self.parameters.configured = False
        self.parameters.has_confidence = True

    def _stop_input(self, state: str) -> None:
        with self._demand_lock:
            self.state, self.demanded = state, False
            if self.loaded is not None:
                self.loaded.input.drop()
        if self.loaded is not None:
            self.loaded.queue.close()

    # Images

    def _on_image(self, message: Any) -> None:
        received_s, now_ns = time.monotonic(), self.get_clock().now().nanoseconds
        self.input_since_ns = now_ns
        loaded = self.loaded
        if loaded is not None:
            loaded.queue.put(Frame(message, received_s, now_ns))

    def _work(self, segmenter: Segmenter, frame: Frame) -> None:
        loaded = self.loaded
        if loaded is not None:
            loaded.processor.process(segmenter, frame)

    # Timers

    def _start_timers(self) -> None:
        # On the steady clock: a timer on ROS time stands still while a bag is paused.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        group = MutuallyExclusiveCallbackGroup()
        self.create_timer(DEMAND_PERIOD_S, self._follow_demand, group, steady)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self.report, group, steady)

    def _follow_demand(self) -> None:
        """Subscribe while anybody listens; choose the QoS anew when the publishers change."""
        with self._demand_lock:
            loaded = self.loaded
            if self.state != "active" or loaded is None:
                return
            demanded = loaded.outputs.wanted
            if demanded and not self.demanded:
                self.input_since_ns = self.get_clock().now().nanoseconds
                self._reporter.begin()
            self.demanded = demanded
            loaded.input.update(demanded)
