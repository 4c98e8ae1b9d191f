"""A wall clock for each node that can jump (libfaketime); monotonic time stays right."""
import glob

LIBRARIES = "/usr/lib/*/faketime/libfaketimeMT.so.1"


def library():
    """Where libfaketime is, None if it is not installed."""
    return next(iter(glob.glob(LIBRARIES)), None)


class Clock:
    """The clock of a process that is started with `environment`."""

    def __init__(self, file):
        self.file = file
        self.jump(0)
        self.environment = {"LD_PRELOAD": library(), "FAKETIME_TIMESTAMP_FILE": file, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                            "DONT_FAKE_MONOTONIC": "1"}

    def jump(self, seconds):
        """Moves it so far from what is right."""
        with open(self.file, "w", encoding="ascii") as file:
            file.write(f"{seconds:+.3f}\n")
