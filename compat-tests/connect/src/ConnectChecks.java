import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Lines go from a file to a topic and from the topic to another file, while workers come, go and die. Arguments: bootstrap
 * server, version, log folder, the workers' class path and their log configuration.
 */
public final class ConnectChecks {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int WAVE = 500;
    private static final int PARTITIONS = 3;
    private static final String SINK_RUNS = "RUNNING: RUNNING RUNNING RUNNING";
    private static final String SOURCE_RUNS = "RUNNING: RUNNING";

    private final String version;
    private final Path logs;
    private final String classPath;
    private final String logConfiguration;
    private final Cluster cluster;
    private final String prefix = "connect-" + System.currentTimeMillis();
    private final String source = prefix + "-source";
    private final String sink = prefix + "-sink";
    private final String topic = prefix + "-lines";
    private final String sinkGroup = "connect-" + sink;
    private final Path input;
    private final Path output;
    private final List<String> lines = new ArrayList<>();
    private Worker first;
    private Worker second;

    private ConnectChecks(String[] args) {
        cluster = new Cluster(args[0]);
        version = args[1];
        logs = Path.of(args[2]);
        classPath = args[3];
        logConfiguration = args[4];
        input = logs.resolve("input");
        output = logs.resolve("output");
    }

    public static void main(String[] args) throws Exception {
        ConnectChecks connect = new ConnectChecks(args);
        Checks checks = new Checks(new Report(System.out), "groups,compaction");
        checks.step("worker-starts", connect::workerStarts);
        checks.check("internal-topics-compacted", connect::internalTopics);
        checks.check("group-protocol", connect::groupProtocol);
        checks.step("file-source", connect::fileSource);
        checks.step("file-sink", connect::fileSink);
        checks.step("offsets-committed", connect::offsetsCommitted);
        checks.step("restart-resumes", connect::restartResumes);
        checks.step("second-worker-balances", connect::secondWorker);
        checks.check("pause-through-second-worker", connect::pause);
        checks.step("killed-leader-replaced", connect::killedLeader);
        checks.check("alter-and-reset-offsets", connect::alterAndResetOffsets);
        checks.check("delete-connectors", connect::deleteConnectors);
        checks.check("delete-groups", connect::deleteGroups);
        checks.run();
        System.out.flush();
        // The hooks end the workers.
        System.exit(0);
    }

    private Worker start(String name) throws IOException {
        Map<String, String> properties = new HashMap<>(Map.of(
            "bootstrap.servers", cluster.broker,
            "group.id", prefix,
            "key.converter", "org.apache.kafka.connect.json.JsonConverter",
            "value.converter", "org.apache.kafka.connect.json.JsonConverter",
            "plugin.discovery", "service_load"));
        for (String kind : List.of("config", "offset", "status")) {
            properties.put(kind + ".storage.topic", prefix + "-" + kind);
            properties.put(kind + ".storage.replication.factor", System.getenv("REPLICAS"));
        }
        properties.put("offset.storage.partitions", "5");
        properties.put("status.storage.partitions", "2");
        properties.put("offset.flush.interval.ms", "1000");
        // Short, to see a worker's death soon; the others long, for a machine that is busy with other things.
        properties.put("session.timeout.ms", "15000");
        properties.put("scheduled.rebalance.max.delay.ms", "3000");
        properties.put("offset.flush.timeout.ms", "60000");
        properties.put("task.shutdown.graceful.timeout.ms", "60000");
        return Worker.start(name, classPath, logConfiguration, logs, properties);
    }

    private void workerStarts() throws Exception {
        first = start("worker-1");
        Checks.await("REST answers", () -> Checks.unlike(version, first.get("/").get("version").asText()));
        String clusterId = Checks.get(cluster.admin.describeCluster().clusterId());
        Checks.same("cluster id", clusterId, first.get("/").get("kafka_cluster_id").asText());
        Checks.await("the worker is in its group", () -> cluster.groupUnlike("connect/sessioned/Stable/1", prefix));
    }

    private void internalTopics() throws Exception {
        Map<String, Integer> expected = Map.of("config", 1, "offset", 5, "status", 2);
        for (Map.Entry<String, Integer> entry : expected.entrySet()) {
            String name = prefix + "-" + entry.getKey();
            Checks.same("partitions of " + name, entry.getValue(), cluster.partitions(name));
            Checks.same("cleanup.policy of " + name, "compact", cluster.config(name, "cleanup.policy"));
        }
    }

    private void groupProtocol() throws Exception {
        Checks.hold(cluster.groupsOfType("connect").contains(prefix), "ListGroups with the protocol type connect lacks the group");
        Checks.hold(!cluster.groupsOfType("consumer").contains(prefix), "ListGroups with the protocol type consumer has the group");
    }

    /** Appends a wave of lines, all of them different, to the file that the source reads. */
    private void append() throws IOException {
        List<String> wave = new ArrayList<>();
        for (int i = 0; i < WAVE; i++) wave.add(String.format(Locale.ROOT, "line %05d of the file", lines.size() + i));
        lines.addAll(wave);
        Files.write(input, wave, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }

    private void fileSource() throws Exception {
        append();
        first.order("POST", "/connectors", Map.of("name", source, "config", Map.of(
            "connector.class", "FileStreamSource",
            "file", input.toString(),
            "topic", topic,
            "topic.creation.default.partitions", String.valueOf(PARTITIONS),
            "topic.creation.default.replication.factor", "-1")));
        first.awaitState(source, SOURCE_RUNS);
        awaitTopic();
        Checks.same("partitions of the topic that Connect made", PARTITIONS, cluster.partitions(topic));
    }

    private void fileSink() throws Exception {
        first.order("PUT", "/connectors/" + sink + "/config", Map.of(
            "connector.class", "FileStreamSink", "file", output.toString(), "topics", topic, "tasks.max", String.valueOf(PARTITIONS)));
        first.awaitState(sink, SINK_RUNS);
        awaitSinkEachOnce();
        Checks.await("the sink's consumers are in their group", () -> cluster.groupUnlike("consumer/range/Stable/" + PARTITIONS, sinkGroup));
    }

    /** Waits until the topic has the lines of the file, each once, in the order of the file within each partition. */
    private void awaitTopic() throws Exception {
        Checks.await("every line is in the topic once", () -> {
            List<String> all = new ArrayList<>();
            Map<Integer, String> previous = new HashMap<>();
            for (ConsumerRecord<String, String> record : cluster.records(topic, new StringDeserializer())) {
                String line = JSON.readTree(record.value()).get("payload").asText();
                String before = previous.put(record.partition(), line);
                Checks.hold(before == null || before.compareTo(line) < 0, "'" + line + "' stands after '" + before + "' in partition " + record.partition());
                all.add(line);
            }
            Collections.sort(all);
            Checks.hold(all.size() <= lines.size(), all.size() + " records for " + lines.size() + " lines");
            return Checks.unlike(lines.size(), all.size()) == null ? Checks.unlike(lines, all) : all.size() + " of " + lines.size() + " lines";
        });
    }

    private List<String> sunk() throws IOException {
        return Files.exists(output) ? Files.readAllLines(output) : List.of();
    }

    private void awaitSinkEachOnce() throws Exception {
        Checks.await("every line is in the sink's file once", () -> {
            List<String> all = new ArrayList<>(sunk());
            Collections.sort(all);
            Checks.hold(all.size() == new HashSet<>(all).size(), (all.size() - new HashSet<>(all).size()) + " lines are in the sink's file twice");
            return all.equals(lines) ? null : all.size() + " of " + lines.size() + " lines";
        });
    }

    /** What at-least-once promises when tasks were moved by force. */
    private void awaitSinkNothingLost() throws Exception {
        Checks.await("every line is in the sink's file", () -> {
            TreeSet<String> all = new TreeSet<>(sunk());
            return new ArrayList<>(all).equals(lines) ? null : all.size() + " of " + lines.size() + " lines";
        });
    }

    /** The offsets are committed up to the ends: of the file in Connect's topic, of the topic in the sink's group. */
    private void awaitCommitted(Worker worker) throws Exception {
        long size = Files.size(input);
        Checks.await("the source's position is the end of the file",
            () -> Checks.unlike(size, worker.get("/connectors/" + source + "/offsets").at("/offsets/0/offset/position").asLong()));
        Map<Integer, Long> ends = cluster.ends(topic);
        ends.values().removeIf(end -> end == 0);
        Checks.await("the group's offsets are the ends of the topic", () -> Checks.unlike(ends, cluster.committed(sinkGroup, topic)));
        Checks.await("REST gives the same", () -> {
            Map<Integer, Long> shown = new TreeMap<>();
            for (JsonNode entry : worker.get("/connectors/" + sink + "/offsets").get("offsets"))
                shown.put(entry.at("/partition/kafka_partition").asInt(), entry.at("/offset/kafka_offset").asLong());
            return Checks.unlike(ends, shown);
        });
    }

    private void offsetsCommitted() throws Exception {
        awaitCommitted(first);
    }

    private void restartResumes() throws Exception {
        first.stop();
        Checks.await("the group is empty", () -> cluster.groupUnlike("connect//Empty/0", prefix));
        append();
        first = start("worker-1-again");
        first.awaitState(source, SOURCE_RUNS);
        first.awaitState(sink, SINK_RUNS);
        awaitTopic();
        awaitSinkEachOnce();
        awaitCommitted(first);
    }

    private void secondWorker() throws Exception {
        second = start("worker-2");
        Checks.await("both are in the group", () -> cluster.groupUnlike("connect/sessioned/Stable/2", prefix));
        Checks.await("each has two of the four tasks and one of the two connectors", () -> {
            second.mustLive();
            List<String> tasks = new ArrayList<>(first.taskWorkers(source)), connectors = new ArrayList<>();
            tasks.addAll(first.taskWorkers(sink));
            for (String name : List.of(source, sink)) connectors.add(first.get("/connectors/" + name + "/status").at("/connector/worker_id").asText());
            Collections.sort(tasks);
            Collections.sort(connectors);
            String[] workers = {first.id, second.id};
            Arrays.sort(workers);
            String missing = Checks.unlike(List.of(workers[0], workers[0], workers[1], workers[1]), tasks);
            return missing == null ? Checks.unlike(List.of(workers), connectors) : missing;
        });
        second.awaitState(source, SOURCE_RUNS);
        second.awaitState(sink, SINK_RUNS);
        append();
        awaitTopic();
        awaitSinkNothingLost();
        awaitCommitted(second);
    }

    /** The leader is asked by the second worker, and both hear of it through the config topic. */
    private void pause() throws Exception {
        second.order("PUT", "/connectors/" + sink + "/pause", null);
        first.awaitState(sink, SINK_RUNS.replace("RUNNING", "PAUSED"));
        second.order("PUT", "/connectors/" + sink + "/resume", null);
        first.awaitState(sink, SINK_RUNS);
    }

    /** The first to join leads. After its death the other leads, and takes its tasks when the session has run out. */
    private void killedLeader() throws Exception {
        first.kill();
        append();
        Checks.await("the other is alone in the group", () -> cluster.groupUnlike("connect/sessioned/Stable/1", prefix));
        Checks.await("it has all tasks", () -> {
            List<String> tasks = new ArrayList<>(second.taskWorkers(source));
            tasks.addAll(second.taskWorkers(sink));
            return Checks.unlike(Collections.nCopies(1 + PARTITIONS, second.id), tasks);
        });
        second.awaitState(source, SOURCE_RUNS);
        second.awaitState(sink, SINK_RUNS);
        awaitTopic();
        awaitSinkNothingLost();
        awaitCommitted(second);
    }

    /** KIP-875: Connect alters and deletes the offsets of the sink's group, and deletes the group. */
    private void alterAndResetOffsets() throws Exception {
        String path = "/connectors/" + sink;
        second.order("PUT", path + "/stop", null);
        second.awaitState(sink, "STOPPED:");
        Map<Integer, Long> expected = cluster.committed(sinkGroup, topic);
        List<Integer> used = new ArrayList<>(expected.keySet());
        List<Object> changes = new ArrayList<>();
        changes.add(change(used.get(0), Map.of("kafka_offset", 1)));
        expected.put(used.get(0), 1L);
        if (used.size() > 1) {
            changes.add(change(used.get(1), null));
            expected.remove(used.get(1));
        }
        second.order("PATCH", path + "/offsets", Map.of("offsets", changes));
        Checks.same("offsets after the change", expected, cluster.committed(sinkGroup, topic));
        second.order("DELETE", path + "/offsets", null);
        Checks.same("offsets after the reset", Map.of(), cluster.committed(sinkGroup, topic));
        Files.delete(output);
        second.order("PUT", path + "/resume", null);
        second.awaitState(sink, SINK_RUNS);
        awaitSinkNothingLost();
        awaitCommitted(second);
    }

    private Map<String, Object> change(int partition, Object offset) {
        Map<String, Object> change = new HashMap<>();
        change.put("partition", Map.of("kafka_topic", topic, "kafka_partition", partition));
        change.put("offset", offset);
        return change;
    }

    private void deleteConnectors() throws Exception {
        for (String name : List.of(sink, source)) {
            Checks.await("deleting " + name, () -> Checks.unlike(204, second.rest("DELETE", "/connectors/" + name, null).status()));
            Checks.await(name + " is gone", () -> Checks.unlike(404, second.rest("GET", "/connectors/" + name + "/status", null).status()));
        }
        Checks.same("connectors", 0, second.get("/connectors").size());
        Map<String, String> configs = cluster.latest(prefix + "-config", new StringDeserializer());
        for (String name : List.of(sink, source))
            Checks.hold(!configs.containsKey("connector-" + name), "no tombstone for " + name + " in the config topic: " + configs.keySet());
        Checks.await("the sink's consumers have left", () -> cluster.groupUnlike("consumer//Empty/0", sinkGroup));
    }

    private void deleteGroups() throws Exception {
        cluster.deleteGroup(sinkGroup);
        second.stop();
        cluster.deleteGroup(prefix);
    }
}
