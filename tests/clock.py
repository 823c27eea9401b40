"""A clock that stands still until a test moves it."""


class Clock:
    """
    Returns the time when it is called.

    :ivar now: In seconds. A test sets it.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
