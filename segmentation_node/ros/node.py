"""The lifecycle node: camera images in; class map, overlay, latency and diagnostics out."""

import time
import traceback
from typing import Any, Callable, Dict, List, Optional, Tuple

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from segmentation_msgs.msg import LabelInfo
from segmentation_node.accounting import FrameCounters, LatencyStatistics, RateMeter
from segmentation_node.backends import choose_backend, open_backend
from segmentation_node.errors import SegmentationError
from segmentation_node.model_card import ModelCard, find_model, read_card
from segmentation_node.models import models_folder
from segmentation_node.pipeline import Segmenter
from segmentation_node.ros import diagnostics
from segmentation_node.ros.conversions import RgbConverter, choose_converter, decode_compressed
from segmentation_node.ros.frames import FrameProcessor
from segmentation_node.ros.input import ImageInput
from segmentation_node.ros.outputs import Outputs, label_info, latched_qos, vision_label_info
from segmentation_node.ros.parameters import NodeParameters, Settings
from segmentation_node.ros.worker import Frame, FrameQueue, Worker

DEMAND_PERIOD_S = 0.1
DIAGNOSTICS_PERIOD_S = 1.0
STOP_TIMEOUT_S = 30.0


class SegmentationNode(LifecycleNode):
    """Configures (loads the model), activates (subscribes while there is demand), and reports."""

    def __init__(self, name: str = "segmentation_node", **node_arguments: Any) -> None:
        super().__init__(name, **node_arguments)
        self.parameters = NodeParameters(self)
        self.counters = FrameCounters()
        self.statistics = LatencyStatistics()
        self._rates = RateMeter()
        self._state = "unconfigured"
        self._error = ""
        self._stopped = False
        self._settings: Optional[Settings] = None
        self._segmenter: Optional[Segmenter] = None
        self._worker: Optional[Worker] = None
        self._queue: Optional[FrameQueue] = None
        self._outputs: Optional[Outputs] = None
        self._input: Optional[ImageInput] = None
        self._processor: Optional[FrameProcessor] = None
        self._backend_choice = ""
        self._demanded = False
        self._input_since_ns = 0
        self._image_group = MutuallyExclusiveCallbackGroup()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._label_info = self.create_publisher(LabelInfo, "~/label_info", latched_qos())
        self._vision_label_info: Any = None
        self._start_timers()

    def autostart(self) -> bool:
        """Configure and activate; whether both went well."""
        done = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == done and self.trigger_activate() == done

    @property
    def error(self) -> str:
        """Why configuring failed; empty when it did not."""
        return self._error

    # Transitions. rclpy swallows what they raise, so nothing may escape unreported.

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the model, make the topics."""
        return self._guarded(self._configure, "unconfigured")

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Start to take images, as soon as anybody listens."""
        done = super().on_activate(state)
        assert self._queue is not None
        self.counters.reset()
        self.statistics.clear()
        self._rates.clear()
        self._queue.open()
        self._set_state("active")
        self._follow_demand()
        return done

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Stop taking images; the frame in hand is finished."""
        self._set_state("inactive")
        self._stop_input()
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Free the model and the topics."""
        return self._guarded(self._release, "inactive")

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """The same, for good."""
        return self._guarded(self._release, "finalized")

    def on_error(self, state: Any) -> TransitionCallbackReturn:
        """Come back to unconfigured."""
        return self._guarded(self._release, "unconfigured")

    def stop(self) -> None:
        """End cleanly from any state, within the frame in hand; the process is about to exit."""
        if not self._stopped:
            self._stopped = True
            self._stop_input()
            self._release()

    # Configuring

    def _configure(self) -> None:
        problems = self.parameters.problems()
        if problems:
            raise SegmentationError("; ".join(problems))
        settings = self.parameters.settings()
        card = read_card(find_model(settings.model, models_folder()))
        self._queue = FrameQueue(settings.frame_policy, self.counters)
        self._worker = Worker(
            lambda: self._open_segmenter(card, settings),
            self._work,
            lambda segmenter: segmenter.close(),
            self._queue,
        )
        try:
            segmenter = self._worker.start()
        except BaseException:
            self._worker = None
            raise
        self._settings, self._segmenter = settings, segmenter
        self._outputs = Outputs(self, segmenter.backend.has_confidence, settings.frame_policy)
        self._processor = FrameProcessor(self, self._outputs, self._converter(settings))
        self._input = ImageInput(
            self, settings, self._image_group, self._on_image, self.counters.lose
        )
        self._publish_labels(card)
        self.parameters.configured = True
        self._set_state("inactive")
        self.get_logger().info(
            "model %s on %s (%s), %s" % (card.name, segmenter.backend.name,
                                         segmenter.backend.device, self._backend_choice)
        )  # fmt: skip

    def _open_segmenter(self, card: ModelCard, settings: Settings) -> Segmenter:
        name, self._backend_choice = settings.backend, "as the parameter backend asks"
        if name == "auto":
            name, self._backend_choice = choose_backend(card)
        segmenter = Segmenter(
            open_backend(name, card, settings.options), settings.output_resolution
        )
        segmenter.warm_up()
        return segmenter

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

    def _release(self) -> None:
        self._stop_input()
        if self._worker is not None and not self._worker.stop(STOP_TIMEOUT_S):
            self.get_logger().error("the backend did not finish within %.0f s" % STOP_TIMEOUT_S)
        if self._outputs is not None:
            self._outputs.destroy()
        self._worker = self._queue = self._outputs = self._input = None
        self._segmenter = self._settings = self._processor = None
        self.parameters.configured = False
        self._set_state("unconfigured")

    def _guarded(self, action: Callable[[], None], fallback: str) -> TransitionCallbackReturn:
        try:
            action()
        except SegmentationError as error:
            self._fail(str(error), fallback)
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            self._fail("%s: %s" % (type(error).__name__, error), fallback)
        else:
            self._error = ""
            return TransitionCallbackReturn.SUCCESS
        return TransitionCallbackReturn.FAILURE

    def _fail(self, line: str, fallback: str) -> None:
        self._error = line
        self._set_state(fallback)
        self.get_logger().error(line)
        self.report()

    # Images

    def _on_image(self, message: Any) -> None:
        received_s, now_ns = time.monotonic(), self.get_clock().now().nanoseconds
        self._input_since_ns = now_ns
        queue = self._queue
        if queue is not None:
            queue.put(Frame(message, received_s, now_ns))

    def _work(self, segmenter: Segmenter, frame: Frame) -> None:
        processor = self._processor
        if processor is not None:
            processor.process(segmenter, frame)

    def _stop_input(self) -> None:
        if self._input is not None:
            self._input.drop()
        if self._queue is not None:
            self._queue.close()

    def _follow_demand(self) -> None:
        """Subscribe while anybody listens; choose the QoS anew when the publishers change."""
        image_input, outputs = self._input, self._outputs
        if self._state != "active" or image_input is None or outputs is None:
            return
        demanded = outputs.wanted
        if demanded and not self._demanded:
            self._input_since_ns = self.get_clock().now().nanoseconds
        if self._demanded and not demanded:
            self.statistics.clear()
            self._rates.clear()
        self._demanded = demanded
        image_input.update(demanded)

    # Reporting

    def _start_timers(self) -> None:
        # On the steady clock: a timer on ROS time stands still while a bag is paused.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        group = MutuallyExclusiveCallbackGroup()
        self.create_timer(DEMAND_PERIOD_S, self._follow_demand, group, steady)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self.report, group, steady)

    def report(self) -> None:
        """Publish the diagnostics now."""
        seen = self._observe()
        limits = diagnostics.Limits(
            max_latency_ms=self.parameters["diagnostics.max_latency_ms"],
            min_rate_hz=self.parameters["diagnostics.min_rate_hz"],
            input_timeout_s=self.parameters["diagnostics.input_timeout_s"],
        )
        segmenter = self._segmenter
        self._diagnostics.publish(
            diagnostics.diagnostic_array(
                self.get_clock().now().to_msg(),
                "%s: segmentation" % self.get_fully_qualified_name().lstrip("/"),
                segmenter.backend.device if segmenter else "",
                diagnostics.judge(seen, limits),
                self._identity() + self._figures(),
            )
        )

    def _observe(self) -> diagnostics.Observation:
        counts = self.counters.snapshot()
        now_ns = self.get_clock().now().nanoseconds
        if self._demanded:
            self._rates.look(time.monotonic(), counts)
        image_input, processor = self._input, self._processor
        if image_input is None or processor is None:
            return diagnostics.Observation(state=self._state, error=self._error)
        return diagnostics.Observation(
            state=self._state,
            error=self._error,
            demanded=self._demanded,
            topic=image_input.topic,
            publishers=image_input.publisher_count(),
            incompatible=image_input.incompatible_publishers(),
            clock_waits=now_ns == 0,
            counts=counts,
            input_age_s=(now_ns - self._input_since_ns) * 1e-9,
            recent_failed=self._rates.recent("failed"),
            recent_dropped=self._rates.recent("dropped"),
            recent_lost=self._rates.recent("lost"),
            last_failure=processor.last_failure,
            stamp_problem=processor.stamp_problem,
            output_rate_hz=self._rates.rate_hz("processed"),
            p95_ms=self.statistics.percentiles().get("processing", {}).get(95, float("nan")),
        )

    def _identity(self) -> List[Tuple[str, str]]:
        segmenter, settings = self._segmenter, self._settings
        if segmenter is None or settings is None:
            return [("state", self._state)]
        backend = segmenter.backend
        return [
            ("state", self._state),
            ("model", segmenter.card.name),
            ("backend", backend.name),
            ("backend_choice", self._backend_choice),
            ("device", backend.device),
            ("precision", settings.options.precision),
            ("frame_policy", settings.frame_policy),
        ]

    def _figures(self) -> List[Tuple[str, str]]:
        rates_hz: Dict[str, float] = {
            "input": self._rates.rate_hz("received"),
            "output": self._rates.rate_hz("processed"),
        }
        percentiles = self.statistics.percentiles()
        return diagnostics.figures(self.counters.snapshot(), rates_hz, percentiles)

    def _set_state(self, state: str) -> None:
        self._state = state
        if state != "active":
            self._demanded = False
