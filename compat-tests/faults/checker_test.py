"""A checker that cannot fail is worth nothing: each defect is planted alone, through the files clients write, and has to be found."""
import os
import random
import tempfile
import unittest

import campaign
import checker
import hangs
import report
from checker import COUNTS, NOBODYS, Fault, checksum, content

FAULTS = [Fault("kill", 1_010, "kill 1 (kill -9 of node 2)")]


class History:
    """What a client saw of 40 records on two partitions when nothing went wrong; the tests spoil it."""

    def __init__(self):
        self.log = {partition: [(n // 2, n) for n in range(40) if n % 2 == partition] for partition in (0, 1)}
        self.acks = [[1_000 + n, n, n % 2, n // 2] for n in range(40)]
        self.deliveries = [[1_005 + n, n, n % 2, n // 2] for n in range(40)]
        # Of both partitions: asked and acknowledged up to 10, then to 20; the last one of partition 1 was not answered.
        self.commits = [[1_027, 0, 10, 1], [1_027, 1, 10, 1], [1_060, 0, 20, 1], [1_060, 1, 20, 0]]
        self.fetched = [(1_030, 0, 10), (1_030, 1, 10), (1_070, 0, 20), (1_070, 1, 10)]
        self.errors = []
        # Spoiled keys and values by number: {number: CRC}.
        self.stored, self.given = {}, {}

    @staticmethod
    def crc(number):
        return checksum(*content(number))

    def judge(self, consumed=True):
        with tempfile.TemporaryDirectory() as folder:
            rows = {"acks": self.acks, "errors": self.errors, "commits": self.commits,
                    "deliveries": [[*row, self.given.get(row[1], self.crc(row[1]))] for row in self.deliveries]}
            for name, lines in rows.items():
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    file.writelines(" ".join(map(str, line)) + "\n" for line in lines)
                    if name == "acks":
                        # The client was ended in the middle of a line.
                        file.write("1041 4")
            log = {partition: checker.log_rows((offset, n, self.stored.get(n, self.crc(n))) for offset, n in records)
                   for partition, records in self.log.items()}
            return checker.judge(checker.History(
                checker.read_rows(os.path.join(folder, "acks"), checker.ack_rows()),
                checker.read_rows(os.path.join(folder, "deliveries"), checker.delivery_rows()),
                checker.read_words(os.path.join(folder, "errors")), log,
                checker.read_rows(os.path.join(folder, "commits"), checker.commit_rows()), self.fetched, consumed), FAULTS)


class Planted(unittest.TestCase):
    def find(self, history, expected, words):
        verdict = history.judge()
        self.assertEqual({**dict.fromkeys(COUNTS, 0), **expected}, verdict.counts)
        self.assertFalse(verdict.good)
        everything = "\n".join(text for texts in verdict.findings.values() for text in texts)
        self.assertIn(words, everything)

    def test_nothing(self):
        self.assertTrue(History().judge().good)

    def test_errors_where_nothing_was_read_back(self):
        verdict = checker.judge(checker.History((), (), [(1_020, "ended", "the client ended")], {}, consumed=False), FAULTS)
        self.assertEqual({**dict.fromkeys(COUNTS, 0), "errors": 1}, verdict.counts)

    def test_lost_at_the_end(self):
        history = History()
        history.log[1].pop()
        history.deliveries.pop()
        self.find(history, {"lost": 1, "undelivered": 1}, "record 39, acknowledged for partition 1 offset 19 at ")
        self.find(history, {"lost": 1, "undelivered": 1}, "0.0 s after kill 1 (kill -9 of node 2) began; the log holds nothing")

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
        history.log[0].append((20, NOBODYS))
        self.find(history, {"phantom": 1}, "partition 0 offset 20 holds what was not sent")

    def test_without_an_offset(self):
        history = History()
        history.acks[5][3] = -1
        self.assertTrue(history.judge().good, "the broker had it already and told no offset")

    def test_again(self):
        history = History()
        history.deliveries += history.deliveries[-6:]
        self.assertTrue(history.judge().good, "at least once")
        self.assertEqual(6, checker.delivered_again(checker.delivery_rows([*row, 0] for row in history.deliveries)))

    def test_not_acknowledged(self):
        history = History()
        history.log[0].append((20, 40))
        self.assertTrue(history.judge().good, "what was sent may be there without an acknowledgement")

    def test_altered_on_the_disk(self):
        history = History()
        history.stored[6] = checksum(content(6)[0], content(7)[1])
        self.find(history, {"altered": 1}, "record 6 at partition 0 offset 3 has CRC")

    def test_altered_on_the_way(self):
        history = History()
        history.given[6] = checksum(content(7)[0], content(6)[1])
        self.find(history, {"altered": 1}, "record 6 came from partition 0 offset 3 at")

    def test_altered_in_its_number(self):
        history = History()
        history.log[0][3] = (3, 2_000_000_000)
        history.stored[2_000_000_000] = self.crc_of_six()
        self.find(history, {"altered": 1, "lost": 1, "phantom": 1}, "record 2000000000 at partition 0 offset 3 has CRC")

    @staticmethod
    def crc_of_six():
        return checksum(*content(6))

    def test_commit_lost_at_the_end(self):
        history = History()
        history.fetched[2] = (1_070, 0, 19)
        self.find(history, {"lost_commits": 1}, "partition 0: the group's offset was 19 at ")

    def test_commits_of_a_partition_all_lost(self):
        history = History()
        history.fetched[3] = (1_070, 1, -1)
        self.find(history, {"lost_commits": 1}, "partition 1: the group's offset was -1 at ")

    def test_commit_lost_in_between_and_made_again(self):
        history = History()
        history.fetched[1] = (1_030, 1, 9)
        self.find(history, {"lost_commits": 1}, "began; 10 was acknowledged at ")

    def test_commit_lost_and_seen_by_the_consumer(self):
        history = History()
        history.deliveries += [[1_080 + n, n, n % 2, n // 2] for n in range(38, 40)] + [[1_090, 19, 1, 9]]
        self.find(history, {"lost_commits": 2}, "partition 0: offset 19 was delivered once more at ")
        self.find(history, {"lost_commits": 2}, "partition 1: offset 9 was delivered once more at ")

    def test_commit_without_an_answer(self):
        history = History()
        history.fetched[3] = (1_070, 1, 20)
        self.assertTrue(history.judge().good, "what was asked for may be there without an acknowledgement")

    def test_commit_acknowledged_after_the_question(self):
        history = History()
        history.fetched[2] = (1_060, 0, 10)
        self.assertTrue(history.judge().good, "it may have been on its way")

    def test_commit_that_the_client_itself_undid(self):
        history = History()
        history.commits.append([1_065, 0, 15, 1])
        history.fetched[2] = (1_070, 0, 15)
        self.assertTrue(history.judge().good, "an older commit that was sent again came last")
        history.fetched[2] = (1_070, 0, 14)
        self.find(history, {"lost_commits": 1}, "15 was acknowledged at ")

    def test_commit_that_failed_late(self):
        history = History()
        history.commits.append([1_075, 0, 15, 0])
        history.fetched[2] = (1_070, 0, 15)
        self.assertTrue(history.judge().good, "an older commit may have come last, and its answer been lost")

    def test_commit_nobody_asked_for(self):
        history = History()
        history.fetched[2] = (1_070, 0, 21)
        self.find(history, {"phantom_commits": 1}, "partition 0: the group's offset was 21 at ")
        self.assertTrue(history.judge(consumed=False).good, "then not all deliveries are known")

    def test_counted_by_fault(self):
        history = History()
        history.log[1].pop()
        history.deliveries.pop()
        self.assertEqual({0: {"lost": 1, "undelivered": 1}}, {at: dict(counts) for at, counts in history.judge().by_fault.items()})


class Gaps(unittest.TestCase):
    FAULTS = [Fault("kill", 1_000, "a"), Fault("kill", 2_000, "b"), Fault("restart", 3_000, "c")]

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


class Recoveries(unittest.TestCase):
    def test_recoveries(self):
        # Node 2 led partition 0, which is silent from 1100 to 1700; partition 1 hesitates for 100 ms.
        fault = Fault("kill", 1_105, "a", undone=1_500, led={("t", 0)})
        records = [(t, 0, 0, 0) for t in range(900, 4_000, 10) if not 1_100 < t < 1_700]
        records += [(t, 0, 1, 0) for t in range(900, 4_000, 10) if not 1_200 < t < 1_300]
        self.assertEqual([{"worst": 595, "elsewhere": 100, "after": 200}], checker.recoveries(records, "t", [fault], 4_000))

    def test_what_comes_after_it_was_undone_is_not_its_own(self):
        fault = Fault("kill", 1_105, "a", undone=1_500, led={("t", 0)})
        records = [(t, 0, 0, 0) for t in range(900, 4_000, 10) if not 2_000 < t < 3_000]
        self.assertEqual([{"worst": 10, "elsewhere": None, "after": 0}], checker.recoveries(records, "t", [fault], 4_000))

    def test_never_again(self):
        fault = Fault("kill", 1_105, "a", undone=1_500)
        records = [(t, 0, 0, 0) for t in range(900, 1_100, 10)]
        self.assertEqual([{"worst": 2_895, "elsewhere": 2_895, "after": 2_500}], checker.recoveries(records, "t", [fault], 4_000))


class Drawing(unittest.TestCase):
    KINDS = list(campaign.KINDS)

    def draw(self, seed, kinds, nodes=3, overlap=True):
        return campaign.draw(random.Random(seed), kinds, nodes, 400, overlap)

    def test_repeats(self):
        self.assertEqual(str(self.draw(7, self.KINDS)), str(self.draw(7, self.KINDS)))
        self.assertNotEqual(str(self.draw(7, self.KINDS)), str(self.draw(8, self.KINDS)))

    def test_each_kind_comes(self):
        for nodes in (3, 5):
            drawn = [plan for plans in self.draw(1, self.KINDS, nodes) for plan in plans]
            self.assertEqual(400, len(drawn))
            self.assertEqual(set(self.KINDS), {plan.kind for plan in drawn})

    def test_what_overlaps_hurts_others(self):
        both = [plans for plans in self.draw(1, self.KINDS, 5) if len(plans) > 1]
        self.assertGreater(len(both), 50)
        for first, second in both:
            self.assertTrue(second.after > first.hold or not set(first.victims) & set(second.victims), (first, second))

    def test_sizes(self):
        for plans in self.draw(1, self.KINDS, 5):
            for plan in plans:
                expected = {"power-majority": (3,), "power-all": (5,), "power-twice": (1, 5)}.get(plan.kind, (1,))
                self.assertIn(len(plan.victims), expected)
                self.assertEqual(len(plan.victims), len(set(plan.victims)))


class Sums(unittest.TestCase):
    @staticmethod
    def result(worst, lost):
        recovery = {"worst": worst, "elsewhere": 3, "after": 0}
        client = {**dict.fromkeys(COUNTS, 0), "acknowledged": 10, "delivered_again": 0, "notes": {}, "lost": lost, "findings": {"lost": ["this one"]} if lost else {},
                  "recoveries_ms": [recovery], "by_fault": {"0": {"lost": lost}} if lost else {}}
        return {"broker": "klamm", "nodes": 3, "seed": worst, "seconds": 5, "rate": 300, "problems": [], "good": not lost,
                "faults": [{"kind": "kill", "begin": 1, "words": "kill 1"}], "clients": {"java": client}}

    def test_added_up(self):
        total = report.added([self.result(5, 0), self.result(9, 2)])
        self.assertFalse(total["good"])
        self.assertEqual((2, 20, 10), (len(total["faults"]), total["clients"]["java"]["acknowledged"], total["seconds"]))
        self.assertEqual((2, ["this one"]), (total["clients"]["java"]["lost"], total["clients"]["java"]["findings"]["lost"]))
        row = report.by_kind(total)[0]
        self.assertEqual(("kill", "java", 2, "5/9/9", 2), (row["kind"], row["client"], row["times"], row["worst"], row["lost"]))
        again = report.added([total, self.result(1, 0)])
        self.assertEqual((3, 30), (len(again["faults"]), again["clients"]["java"]["acknowledged"]))
        self.assertEqual({"1": {"lost": 2}}, again["clients"]["java"]["by_fault"])


class Hangs(unittest.TestCase):
    HANDLER = "Thread 6 (LWP 292) \"rdk:main\":\n#4 rwlock_wrlock ()\n#7 rd_kafka_toppar_handle_OffsetForLeaderEpoch ()\n"
    BROKER = "Thread 9 (LWP 12880) \"rdk:broker2\":\n#4 __mtx_lock ()\n#5 rd_kafka_toppar_forget_leader ()\n"
    IDLE = "Thread 16 (LWP 24671) \"rdk:broker2\":\n#0 poll ()\n#2 rd_kafka_transport_io_serve ()\n"

    def test_a_client_that_locked_itself_up(self):
        self.assertEqual(hangs.KNOWN, hangs.known(self.IDLE + self.HANDLER + self.BROKER))

    def test_another_hang_is_not_known(self):
        for stacks in ("", self.IDLE, self.IDLE + self.HANDLER, self.BROKER + self.IDLE,
                       self.HANDLER.replace("rwlock_wrlock", "poll") + self.BROKER):
            self.assertIsNone(hangs.known(stacks))


if __name__ == "__main__":
    unittest.main()
