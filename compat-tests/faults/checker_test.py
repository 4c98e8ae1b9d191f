"""A checker that cannot fail is worth nothing: each defect is planted alone, through the files clients write, and has to be found."""
import os
import tempfile
import unittest

import checker
from checker import COUNTS, Fault

FAULTS = [Fault("failover", 1_010, "failover 1 (kill -9 of node 2)")]


class History:
    """What a client saw of 40 records on two partitions when nothing went wrong; the tests spoil it."""

    def __init__(self):
        self.log = {partition: [(n // 2, n) for n in range(40) if n % 2 == partition] for partition in (0, 1)}
        self.acks = [[1_000 + n, n, n % 2, n // 2] for n in range(40)]
        self.deliveries = [[1_005 + n, n, n % 2, n // 2] for n in range(40)]
        self.errors = []

    def judge(self, consumed=True):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("acks", "deliveries", "errors"):
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    file.writelines(" ".join(map(str, line)) + "\n" for line in getattr(self, name))
                    if name == "acks":
                        # The client was ended in the middle of a line.
                        file.write("1041 4")
            acks, deliveries = (checker.read_records(os.path.join(folder, name)) for name in ("acks", "deliveries"))
            errors = checker.read_words(os.path.join(folder, "errors"))
            return checker.judge(acks, deliveries, errors, self.log, FAULTS, consumed)


class Planted(unittest.TestCase):
    def find(self, history, expected, words):
        verdict = history.judge()
        self.assertEqual({**dict.fromkeys(COUNTS, 0), **expected}, verdict.counts)
        self.assertFalse(verdict.good)
        everything = "\n".join(text for texts in verdict.findings.values() for text in texts)
        self.assertIn(words, everything)

    def test_nothing(self):
        self.assertTrue(History().judge().good)

    def test_lost_at_the_end(self):
        history = History()
        history.log[1].pop()
        history.deliveries.pop()
        self.find(history, {"lost": 1, "undelivered": 1}, "record 39, acknowledged for partition 1 offset 19 at ")
        self.find(history, {"lost": 1, "undelivered": 1}, "0.0 s after failover 1 (kill -9 of node 2) began; the log holds nothing")

    def test_lost_and_its_place_taken(self):
        history = History()
        history.log[0] = [(min(offset, number) - (offset > 5), number) for offset, number in history.log[0] if offset != 5]
        for rows in (history.acks, history.deliveries):
            rows[:] = [[t, n, p, o - (p == 0 and o > 5)] for t, n, p, o in rows]
        history.deliveries = [row for row in history.deliveries if row[1] != 10]
        self.find(history, {"lost": 1, "undelivered": 1}, "record 10, acknowledged for partition 0 offset 5")
        self.find(history, {"lost": 1, "undelivered": 1}, "the log holds record 12 there")

    def test_lost_but_read_before(self):
        history = History()
        history.log[1].pop()
        self.find(history, {"lost": 1, "phantom": 1}, "record 39 came from partition 1 offset 19")

    def test_duplicated(self):
        history = History()
        history.log[1].append((20, 37))
        self.find(history, {"duplicated": 1}, "record 37 is at (partition, offset) [(1, 18), (1, 20)]")

    def test_duplicated_in_another_partition(self):
        history = History()
        history.log[0].append((20, 39))
        self.find(history, {"duplicated": 1}, "record 39 is at (partition, offset) [(0, 20), (1, 19)]")

    def test_reordered(self):
        history = History()
        history.log[0][3], history.log[0][4] = (3, 8), (4, 6)
        for rows in (history.acks, history.deliveries):
            rows[6][3], rows[8][3] = 4, 3
        self.find(history, {"reordered": 1}, "record 6 is at partition 0 offset 4, behind record 8 at offset 3")

    def test_reordered_where_acks_tell_otherwise(self):
        history = History()
        history.log[0][3], history.log[0][4] = (3, 8), (4, 6)
        self.find(history, {"reordered": 1, "misplaced": 2, "phantom": 2}, "record 6, acknowledged for partition 0 offset 3")

    def test_error_of_the_application(self):
        history = History()
        history.errors.append([1_020, "delivery", "record 41: Broker: Not leader for partition"])
        self.find(history, {"errors": 1}, "delivery: record 41: Broker: Not leader for partition at ")

    def test_undelivered(self):
        history = History()
        del history.deliveries[7]
        self.find(history, {"undelivered": 1}, "record 7, acknowledged for partition 1 offset 3")

    def test_consumer_that_ended(self):
        history = History()
        del history.deliveries[30:]
        self.assertFalse(history.judge().good)
        self.assertTrue(history.judge(consumed=False).good, "its end is an error of its own")

    def test_hole(self):
        history = History()
        history.log[0] = [(offset + (offset > 9), number) for offset, number in history.log[0]]
        for rows in (history.acks, history.deliveries):
            rows[:] = [[t, n, p, o + (p == 0 and o > 9)] for t, n, p, o in rows]
        self.find(history, {"holes": 1}, "partition 0: offset 11 follows offset 9")

    def test_first_records_missing(self):
        history = History()
        history.log[0] = history.log[0][2:]
        self.find(history, {"lost": 2, "phantom": 2, "holes": 1}, "partition 0: offset 2 follows offset -1")

    def test_not_sent(self):
        history = History()
        history.log[0].append((20, None))
        self.find(history, {"phantom": 1}, "partition 0 offset 20 holds what was not sent")

    def test_without_an_offset(self):
        history = History()
        history.acks[5][3] = -1
        self.assertTrue(history.judge().good, "the broker had it already and told no offset")

    def test_again(self):
        history = History()
        history.deliveries += history.deliveries[-6:]
        self.assertTrue(history.judge().good, "at least once")

    def test_not_acknowledged(self):
        history = History()
        history.log[0].append((20, 40))
        self.assertTrue(history.judge().good, "what was sent may be there without an acknowledgement")


class Gaps(unittest.TestCase):
    FAULTS = [Fault("failover", 1_000, "a"), Fault("failover", 2_000, "b"), Fault("restart", 3_000, "c")]

    def test_longest(self):
        # Partition 0 answers every 10 ms but for half a second of the first fault, partition 1 always.
        records = [(t, 0, 0, 0) for t in range(900, 4_000, 10) if not 1_100 < t < 1_600] + [(t, 0, 1, 0) for t in range(905, 4_000, 10)]
        self.assertEqual([(500, 10), (10, 5), (10, 5)], checker.longest_gaps(records, self.FAULTS, 4_000))

    def test_until_the_end(self):
        records = [(t, 0, 0, 0) for t in range(900, 3_100, 10)]
        self.assertEqual((910, 910), checker.longest_gaps(records, self.FAULTS, 4_000)[2])

    def test_silence(self):
        self.assertEqual([(0, 0), (0, 0), (3_000, 3_000)], checker.longest_gaps([], self.FAULTS, 4_000))

    def test_belongs_to_the_fault_after_which_it_ends(self):
        records = [(t, 0, 0, 0) for t in range(900, 4_000, 10) if not 1_960 < t < 2_400]
        self.assertEqual([(10, 10), (440, 440), (10, 10)], checker.longest_gaps(records, self.FAULTS, 4_000))

    def test_percentiles(self):
        self.assertEqual([5, 10, 10], [checker.percentile(range(1, 11), p) for p in (50, 99, 100)])
        self.assertEqual([7, 7], [checker.percentile([7], p) for p in (50, 99)])


if __name__ == "__main__":
    unittest.main()
