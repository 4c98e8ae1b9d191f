"""A file system for each node whose power can be cut: ext4 in a sparse file, mounted by loop, shut down so that nothing that was not
synced survives. Needs root and loop devices; mounts go away with the mount namespace that run-faults makes."""
import errno
import fcntl
import os
import struct
import subprocess
import time

# FS_IOC_SHUTDOWN, and EXT4_GOING_FLAGS_NOLOGFLUSH: what is not on the disk is discarded, journal included.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
MEBIBYTES = 4096
BUSY_SECONDS = 10


class Volume:
    """A mounted volume; what a node keeps lies in its folder `data`."""

    def __init__(self, mount):
        self.mount, self.image, self.filler = mount, mount + ".img", os.path.join(mount, "filler")
        self.mounted = False

    def make(self):
        with open(self.image, "wb") as image:
            image.truncate(MEBIBYTES << 20)
        os.makedirs(self.mount)
        _run("mkfs.ext4", "-q", "-m", "0", self.image)
        self._mount()

    def cut(self):
        """The power is cut: from now on every write and sync fails."""
        folder = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(folder)

    def restore(self):
        """It is back: mounts what had reached the disk."""
        self.unmount()
        self._mount()

    def fill(self):
        """To the last block."""
        file, at, size = os.open(self.filler, os.O_CREAT | os.O_WRONLY), 0, MEBIBYTES << 20
        try:
            while size >= 4096:
                try:
                    os.posix_fallocate(file, at, size)
                    at += size
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2
        finally:
            os.close(file)

    def free(self):
        os.unlink(self.filler)

    def unmount(self):
        """A process that was killed may hold it for a moment more."""
        until = time.monotonic() + BUSY_SECONDS
        while self.mounted:
            try:
                _run("umount", self.mount)
                self.mounted = False
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def _mount(self):
        _run("mount", "-o", "loop", self.image, self.mount)
        self.mounted = True


def _run(*words):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
