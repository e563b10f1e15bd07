"""How a recipe is carried out, where that does not decide the result."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run; the defaults are the command's."""

    accumulate: int = 1
    """Parts that a process's batch is computed in, to fit into memory."""
    compile_network: bool = False
    checkpoint_minutes: float = 10.0
    """What a killed run loses at most."""
    stop_after: int | None = None
    """Stop as on a signal after this many steps."""
    resume: bool = False
