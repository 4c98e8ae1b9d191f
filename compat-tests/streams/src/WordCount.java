import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.QueryableStoreTypes;

/** One instance of the application: it counts the words of the input topic in a store and sends every new count to the output topic. */
final class WordCount {
    static final int THREADS = 2;
    private final KafkaStreams streams;
    private final AtomicLong restored = new AtomicLong();

    WordCount(String broker, String application, String input, String output, Path state) {
        Properties properties = new Properties();
        properties.putAll(Map.of(
            "bootstrap.servers", broker,
            "application.id", application,
            "state.dir", state.toString(),
            "processing.guarantee", "at_least_once",
            "group.protocol", "classic",
            "num.stream.threads", String.valueOf(THREADS),
            "default.key.serde", Serdes.StringSerde.class.getName(),
            "default.value.serde", Serdes.StringSerde.class.getName(),
            "commit.interval.ms", "500",
            "repartition.purge.interval.ms", "500"));
        // Short enough to see an instance's death soon, long enough for a busy machine.
        properties.put("session.timeout.ms", "15000");
        streams = new KafkaStreams(topology(input, output), properties);
        streams.setGlobalStateRestoreListener(new StateRestoreListener() {
            @Override
            public void onRestoreStart(TopicPartition partition, String store, long start, long end) {
            }

            @Override
            public void onBatchRestored(TopicPartition partition, String store, long end, long records) {
            }

            @Override
            public void onRestoreEnd(TopicPartition partition, String store, long records) {
                restored.addAndGet(records);
            }
        });
        streams.start();
    }

    private static Topology topology(String input, String output) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.<String, String>stream(input)
            .flatMapValues(line -> Arrays.asList(line.split(" ")))
            .groupBy((key, word) -> word, Grouped.as("words"))
            .count(Materialized.as("counts"))
            .toStream()
            .to(output, Produced.with(Serdes.String(), Serdes.Long()));
        return builder.build();
    }

    /** Records that came from the changelog into the stores. */
    long restored() {
        return restored.get();
    }

    /** An AssertionError when it has given up: then there is nothing to wait for. */
    void mustLive() {
        Checks.hold(streams.state() != KafkaStreams.State.ERROR, "Streams gave up, see checks.log");
    }

    KafkaStreams.State state() {
        mustLive();
        return streams.state();
    }

    /** The partitions of the store that this instance works on. */
    long tasks() {
        mustLive();
        return streams.metadataForLocalThreads().stream().flatMap(t -> t.activeTasks().stream())
            .filter(t -> t.topicPartitions().stream().anyMatch(p -> p.topic().endsWith("-repartition"))).count();
    }

    /** The counts in the stores of this instance. */
    Map<String, Long> counts() {
        mustLive();
        Map<String, Long> all = new HashMap<>();
        try (KeyValueIterator<String, Long> entries =
                 streams.store(StoreQueryParameters.fromNameAndType("counts", QueryableStoreTypes.<String, Long>keyValueStore())).all()) {
            while (entries.hasNext()) {
                KeyValue<String, Long> entry = entries.next();
                all.put(entry.key, entry.value);
            }
        }
        return all;
    }

    /** Ends it with a commit; it leaves its group, or is missed there only when its session has run out. */
    void close(boolean leave) {
        CloseOptions.GroupMembershipOperation membership =
            leave ? CloseOptions.GroupMembershipOperation.LEAVE_GROUP : CloseOptions.GroupMembershipOperation.REMAIN_IN_GROUP;
        boolean ended = streams.close(CloseOptions.timeout(Duration.ofSeconds(Checks.WAIT_SECONDS)).withGroupMembershipOperation(membership));
        Checks.hold(ended, "Streams did not close within " + Checks.WAIT_SECONDS + " s");
    }
}
