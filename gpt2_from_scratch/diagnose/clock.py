"""How long a search may take, so that it finds the same on a busy machine."""

import time

# A machine that does other things, too, or a candidate that computes in another process: then the search ends after so
# many times the limit.
_FAR = 5


class Clock:
    """The time that a search may take: processor time of the thread that searches, and far above it time on the wall.

    Args:
        seconds: of processor time, from now on.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end, self._far_end = time.thread_time() + seconds, time.monotonic() + _FAR * seconds

    @property
    def over(self) -> bool:
        """Whether it has run out."""
        return not self.left

    @property
    def left(self) -> float:
        """Seconds of processor time that are left; 0 if it has run out."""
        return max(0.0, self._end - time.thread_time()) if time.monotonic() < self._far_end else 0.0
