"""How long a search may take, so that it finds the same on a busy machine."""

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

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

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Ends Python code inside when as much time has passed on the wall as is left now, and a second at least.

        Raises:
            TimeoutError: it was ended.
        """
        thread = ctypes.c_ulong(threading.get_ident())
        throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
        timer = threading.Timer(max(1, self.left), throw, (thread, ctypes.py_object(_Ended)))
        timer.daemon = True
        try:
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
                timer.join()
                throw(thread, None)  # what was thrown too late for the code inside is thrown at nobody
        except _Ended:
            raise TimeoutError from None


class _Ended(BaseException):
    """No `except Exception` of the code that is ended catches it."""
