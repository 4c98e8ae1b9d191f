import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;

/**
 * A word count through restarts: after each its result is what the input says, since every instance ends with a commit.
 * Arguments: bootstrap server, log folder.
 */
public final class StreamsChecks {
    private static final int PARTITIONS = 4;
    private static final int LINES = 2000;

    private final Cluster cluster;
    private final Path logs;
    private final String application = "streams-" + System.currentTimeMillis();
    private final String input = application + "-lines";
    private final String output = application + "-result";
    private final String repartition = application + "-words-repartition";
    private final String changelog = application + "-counts-changelog";
    private final Random random = new Random(1);
    private final Map<String, Long> expected = new HashMap<>();
    private WordCount first;
    private WordCount second;

    private StreamsChecks(String[] args) {
        cluster = new Cluster(args[0]);
        logs = Path.of(args[1]);
    }

    public static void main(String[] args) throws Exception {
        StreamsChecks streams = new StreamsChecks(args);
        Checks checks = new Checks(new Report(System.out), "groups,compaction");
        checks.step("word-count", streams::wordCount);
        checks.check("changelog-compacted", streams::changelogCompacted);
        checks.check("repartition-topic", streams::repartitionTopic);
        checks.check("repartition-purged", streams::repartitionPurged);
        checks.check("group-protocol", streams::groupProtocol);
        checks.step("close-commits-and-leaves", streams::closeCommits);
        checks.step("restart-restores", streams::restartRestores);
        checks.step("second-instance", streams::secondInstance);
        checks.step("session-runs-out", streams::sessionRunsOut);
        checks.check("delete-group", streams::deleteGroup);
        checks.run();
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }

    /** Sends lines of words, and counts them. */
    private void send() {
        try (KafkaProducer<String, String> producer =
                 new KafkaProducer<>(Map.of("bootstrap.servers", cluster.broker), new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < LINES; i++) {
                StringBuilder line = new StringBuilder();
                for (int word = 0; word < 8; word++) {
                    // The square makes some words frequent and some rare.
                    int number = random.nextInt(20) * random.nextInt(20);
                    line.append(word == 0 ? "" : " ").append("word").append(number);
                    expected.merge("word" + number, 1L, Long::sum);
                }
                producer.send(new ProducerRecord<>(input, i % PARTITIONS, null, line.toString()));
            }
        }
    }

    private WordCount start(String state) {
        return new WordCount(cluster.broker, application, input, output, logs.resolve(state));
    }

    /** Waits until the newest counts in the output topic, and those in the stores, are those of the input. */
    private void awaitResult(WordCount... instances) throws Exception {
        Checks.await("the stores have the counts of the input", () -> {
            Map<String, Long> all = new HashMap<>();
            for (WordCount instance : instances) all.putAll(instance.counts());
            return wrong(all);
        });
        Checks.await("the output topic has the counts of the input", () -> {
            for (WordCount instance : instances) instance.mustLive();
            return wrong(cluster.latest(output, new LongDeserializer()));
        });
    }

    /** For a probe: null when the counts are those of the input. A count only grows, so one that is too high stays wrong. */
    private String wrong(Map<String, Long> counts) {
        counts.forEach((word, count) ->
            Checks.hold(count <= expected.getOrDefault(word, 0L), word + " was counted " + count + " times, not " + expected.get(word)));
        long wrong = expected.entrySet().stream().filter(e -> !e.getValue().equals(counts.get(e.getKey()))).count();
        return wrong == 0 ? null : wrong + " of " + expected.size() + " counts are not yet right";
    }

    private void wordCount() throws Exception {
        short replicas = Short.parseShort(System.getenv("REPLICAS"));
        Checks.get(cluster.admin.createTopics(List.of(new NewTopic(input, PARTITIONS, replicas), new NewTopic(output, PARTITIONS, replicas))).all());
        send();
        first = start("state-1");
        awaitResult(first);
        Checks.await("it runs", () -> Checks.unlike(KafkaStreams.State.RUNNING, first.state()));
    }

    private void changelogCompacted() throws Exception {
        Checks.same("partitions", PARTITIONS, cluster.partitions(changelog));
        Checks.same("cleanup.policy", "compact", cluster.config(changelog, "cleanup.policy"));
        Checks.await("it has the counts", () -> wrong(cluster.latest(changelog, new LongDeserializer())));
    }

    private void repartitionTopic() throws Exception {
        Checks.same("partitions", PARTITIONS, cluster.partitions(repartition));
        Checks.same("cleanup.policy", "delete", cluster.config(repartition, "cleanup.policy"));
        Checks.same("retention.ms", "-1", cluster.config(repartition, "retention.ms"));
    }

    /** Streams deletes from the repartition topic what it has committed. */
    private void repartitionPurged() throws Exception {
        Checks.await("DeleteRecords has moved every start to the end", () -> Checks.unlike(cluster.ends(repartition), cluster.beginnings(repartition)));
    }

    private void groupProtocol() throws Exception {
        Checks.await("its threads are in the group", () -> cluster.groupUnlike("consumer/stream/Stable/" + WordCount.THREADS, application));
        Checks.hold(cluster.groupsOfType("consumer").contains(application), "ListGroups with the protocol type consumer lacks the group");
    }

    private void closeCommits() throws Exception {
        first.close(true);
        Checks.await("the group is empty", () -> cluster.groupUnlike("consumer//Empty/0", application));
        Checks.same("offsets of the input", cluster.ends(input), cluster.committed(application, input));
        Checks.same("offsets of the repartition topic", cluster.ends(repartition), cluster.committed(application, repartition));
    }

    private void restartRestores() throws Exception {
        deleteTree(logs.resolve("state-1"));
        int words = expected.size();
        send();
        first = start("state-1");
        awaitResult(first);
        Checks.hold(first.restored() >= words, "restored " + first.restored() + " records for " + words + " words");
    }

    private static void deleteTree(Path folder) throws IOException {
        List<Path> paths;
        try (Stream<Path> all = Files.walk(folder)) {
            paths = all.sorted(Comparator.reverseOrder()).toList();
        }
        for (Path path : paths) Files.delete(path);
    }

    private void secondInstance() throws Exception {
        second = start("state-2");
        Checks.await("each instance has half of the tasks", () -> Checks.unlike("2 and 2", first.tasks() + " and " + second.tasks()));
        Checks.await("both are in the group", () -> cluster.groupUnlike("consumer/stream/Stable/" + 2 * WordCount.THREADS, application));
        send();
        awaitResult(first, second);
        Checks.hold(second.restored() > 0, "the second instance restored nothing");
    }

    /** The first to join, whose thread leads the group, goes without a word. */
    private void sessionRunsOut() throws Exception {
        first.close(false);
        send();
        Checks.await("the other has all tasks", () -> Checks.unlike((long) PARTITIONS, second.tasks()));
        awaitResult(second);
        Checks.await("only its threads are in the group", () -> cluster.groupUnlike("consumer/stream/Stable/" + WordCount.THREADS, application));
    }

    private void deleteGroup() throws Exception {
        second.close(true);
        cluster.deleteGroup(application);
    }
}
