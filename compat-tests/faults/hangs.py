"""Hangs of clients that are known and their own, told by the stacks of their threads."""
import re

# Of two threads each waits for the lock that the other one has: the one that was told of an offset's epoch, with the partition's, for the handle's;
# the one that lost its broker, with the handle's, for the partition's.
LOCKED_UP = (("rd_kafka_toppar_handle_OffsetForLeaderEpoch", "rwlock_wrlock"), ("rd_kafka_toppar_forget_leader", "mtx_lock"))
KNOWN = "librdkafka locked itself up (confluentinc/librdkafka#5476)"


def known(stacks):
    """What is known of a client that hangs with these stacks, as gdb prints them; None if nothing is."""
    threads = re.split(r"^Thread ", stacks, flags=re.MULTILINE)
    return KNOWN if all(any(all(name in thread for name in names) for thread in threads) for names in LOCKED_UP) else None
