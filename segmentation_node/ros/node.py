"""The lifecycle node: camera images in; class map, overlay, latency and diagnostics out."""

import threading
import traceback
from typing import Any, Callable, Optional

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidTopicNameException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from segmentation_msgs.srv import LoadModel
from segmentation_node.errors import SegmentationError, reason
from segmentation_node.ros.diagnostics import Reporter
from segmentation_node.ros.loaded_model import LoadedModel
from segmentation_node.ros.parameters import NodeParameters
from segmentation_node.ros.session import Session

FOLLOW_PERIOD_S = 0.1
DIAGNOSTICS_PERIOD_S = 1.0
# What to do in a state that has none.
WAYS_TO_A_MODEL = {
    "unconfigured": "set the parameters model, backend and precision, then configure it",
    "configuring": "try again when it is done",
    "finalized": "start it anew",
}


class SegmentationNode(LifecycleNode):
    """Configures (opens a session), activates (takes images while there is demand), reports."""

    def __init__(
        self,
        name: str = "segmentation_node",
        told_to_stop: Callable[[], bool] = lambda: False,
        **node_arguments: Any,
    ) -> None:
        """``told_to_stop`` is asked while a model loads, which nothing else would end."""
        super().__init__(name, **node_arguments)
        self._told_to_stop = told_to_stop
        self.parameters = NodeParameters(self)
        unknown = self.parameters.unknown()
        if unknown:
            self.get_logger().warning(
                "given, but no parameters of this node, so without effect: " + ", ".join(unknown)
            )
        self.state = "unconfigured"
        self.error = ""  # why configuring failed; empty when it did not
        self.session: Optional[Session] = None
        self._stopped = False
        # A model's change and the transitions out of a state come on different threads.
        self._transitions = threading.RLock()
        self._reporter = Reporter(self, self.parameters)
        self._refuse_impossible_transitions()
        self._start_timers()
        # Loading may take minutes; a group of its own, or no transition would come through.
        self.create_service(
            LoadModel,
            "~/load_model",
            self._on_load_model,
            callback_group=MutuallyExclusiveCallbackGroup(),
        )

    @property
    def stopping(self) -> bool:
        """Whether the process is about to exit."""
        return self._stopped or self._told_to_stop()

    def autostart(self) -> bool:
        """Configure and activate; whether both went well."""
        done = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == done and self.trigger_activate() == done

    def report(self) -> None:
        """Publish the diagnostics now."""
        self._reporter.report(self.state, self.error, self.session)

    def report_last(self, timeout_s: float) -> None:
        """Publish the diagnostics and see them delivered: the process is about to exit.

        Told to stop, it only publishes them.
        """
        self._reporter.wait_for_subscriber(timeout_s, lambda: self.stopping)
        self.report()
        if not self.stopping:
            self._reporter.wait_for_delivery(timeout_s)

    def stop(self) -> None:
        """End cleanly from any state, within the frame in hand; the process is about to exit."""
        if not self._stopped:
            self._stopped = True
            self._release("finalized")

    def destroy_node(self) -> None:
        """As rclpy's, with the model and its thread."""
        try:
            self.stop()
        finally:
            super().destroy_node()

    # Transitions. rclpy swallows what they raise, so nothing may escape unreported.

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the model, make the topics."""
        return self._guarded(self._configure, TransitionCallbackReturn.FAILURE)

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Start to take images, as soon as anybody listens."""
        with self._transitions:
            done = super().on_activate(state)
            return self._guarded(self._start) if done == TransitionCallbackReturn.SUCCESS else done

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Stop taking images; the frame in hand is finished and published."""
        with self._transitions:
            done = self._guarded(self._pause)
            if done != TransitionCallbackReturn.SUCCESS:
                return done
            return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Free the model and the topics."""
        return self._guarded(lambda: self._release("unconfigured"))

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """The same, for good."""
        return self._guarded(lambda: self._release("finalized"))

    def on_error(self, state: Any) -> TransitionCallbackReturn:
        """Come back to unconfigured after a transition that went wrong; ``error`` says why.

        Where that goes wrong too, the node is finalized.
        """
        done = self._guarded(lambda: self._release("unconfigured"))
        if done != TransitionCallbackReturn.SUCCESS:
            self.state = "finalized"
        return done

    def _refuse_impossible_transitions(self) -> None:
        """Answer one that this state does not have with no: rclpy lets it end the process."""
        service = next(item for item in self.services if item.srv_type is ChangeState)
        change_state = service.callback

        def answer(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except RuntimeError as error:  # rclpy's RCLError
                self.get_logger().error("transition refused: %s" % reason(error))
                response.success = False
                return response

        service.callback = answer

    def _guarded(
        self,
        action: Callable[[], None],
        failed: TransitionCallbackReturn = TransitionCallbackReturn.ERROR,
    ) -> TransitionCallbackReturn:
        try:
            action()
        except (SegmentationError, InvalidTopicNameException) as error:  # a camera's is too long
            self._fail(reason(error))
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            self._fail("%s: %s" % (type(error).__name__, error))
        else:
            return TransitionCallbackReturn.SUCCESS
        return failed

    def _fail(self, line: str) -> None:
        self.error = line
        if self.stopping:
            self.get_logger().info(line)
            return
        self.get_logger().error(line)
        self.report()

    # What the transitions do

    def _configure(self) -> None:
        self.error = ""
        self.state = "configuring"
        try:
            self.session = self._open_session()
        except Exception:
            self.state = "unconfigured"
            raise
        self.parameters.configured = True
        self.parameters.has_confidence = self.session.model.has_confidence
        self.state = "inactive"

    def _open_session(self) -> Session:
        problems = self.parameters.problems()
        if problems:
            raise SegmentationError("; ".join(problems))
        session = Session(self, self.parameters, lambda: self.stopping)
        if self.stopping:
            session.close()
            raise SegmentationError("told to stop while configuring")
        self._tell(session.model)
        return session

    def _tell(self, model: LoadedModel) -> None:
        self.get_logger().info(model.summary)
        for line in model.warnings:
            self.get_logger().warning(line)

    def _start(self) -> None:
        assert self.session is not None
        self.session.start()
        self.state = "active"

    def _pause(self) -> None:
        self.state = "inactive"
        if self.session is not None:
            self.session.pause()

    def _release(self, state: str) -> None:
        with self._transitions:
            self.state = state
            session, self.session = self.session, None
            if session is not None:
                session.close()
            self.parameters.configured = False
            self.parameters.has_confidence = True

    # Another model

    def _on_load_model(self, request: Any, response: Any) -> Any:
        try:
            response.message = self._load_model(request)
            response.success = True
        except SegmentationError as error:
            response.message = reason(error)
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            response.message = reason("%s: %s" % (type(error).__name__, error))
        if not response.success:
            self.get_logger().error("load_model: %s" % response.message)
        return response

    def _load_model(self, request: Any) -> str:
        """Take the requested model into use; what runs then, in one line."""
        session, state = self.session, self.state
        if session is None:
            raise SegmentationError(
                "load_model changes the model of a configured node; this one is %s: %s"
                % (state, WAYS_TO_A_MODEL.get(state, "try again"))
            )
        values = {
            name: getattr(request, name) or self.parameters[name]
            for name in ("model", "backend", "precision")
        }
        refusals = [self.parameters.refusal_of(name, values[name]) for name in values]
        if any(refusals):
            raise SegmentationError("; ".join(filter(None, refusals)))
        successor = session.open_successor(**values)
        with self._transitions:
            try:
                session.take(successor, is_active=self.state == "active")
            except BaseException:
                successor.drop()
                raise
            self.parameters.adopt(values)
            self.parameters.has_confidence = successor.model.has_confidence
        self._tell(successor.model)
        return successor.model.summary

    # Timers

    def _start_timers(self) -> None:
        # On the steady clock: a timer on ROS time stands still while a bag is paused.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        group = MutuallyExclusiveCallbackGroup()
        self.create_timer(FOLLOW_PERIOD_S, self._follow, group, steady)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self.report, group, steady)

    def _follow(self) -> None:
        session = self.session
        if session is not None:
            session.follow()
