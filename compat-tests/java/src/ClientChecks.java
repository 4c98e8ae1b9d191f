import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.ApiException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** The producer, the consumer (by assignment and by group) and the admin client, by what is the same in Kafka 2.8 to 4.3. */
final class ClientChecks {
    private interface Check {
        void run() throws Exception;
    }

    private static final int TIMEOUT_SECONDS = 60;
    private static final short REPLICAS = Short.parseShort(System.getenv("REPLICAS"));

    private final String broker;
    private final Report report;
    private final String prefix = "java-" + System.currentTimeMillis();
    private Admin admin;

    ClientChecks(String broker, Report report) {
        this.broker = broker;
        this.report = report;
    }

    void run() throws Exception {
        try (Admin opened = Admin.create(Map.of("bootstrap.servers", broker))) {
            admin = opened;
            quick("client-describe-cluster", this::describeCluster);
            for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) quick("client-codec-" + codec, () -> codec(codec));
            for (String acks : List.of("0", "1", "all")) check("client-acks-" + acks, () -> acks(acks));
            quick("client-idempotent", this::idempotent);
            check("client-headers-and-nulls", this::headersAndNulls);
            check("client-create-time", this::createTime);
            check("client-log-append-time", this::logAppendTime);
            quick("client-positions", this::positions);
            check("client-offsets-for-times", this::offsetsForTimes);
            check("client-fetch-sessions", this::fetchSessions);
            check("client-small-fetches", this::smallFetches);
            check("client-out-of-range", this::outOfRange);
            check("client-record-too-large", this::recordTooLarge);
            check("client-missing-topic", this::missingTopic);
            check("client-auto-create", this::autoCreate);
            check("client-topic-made-while-waiting", this::topicMadeWhileWaiting);
            check("client-topic-deleted-and-made-again", this::topicMadeAgain);
            quick("admin-topics", this::adminTopics);
            check("admin-validate-only", this::adminValidateOnly);
            check("admin-create-partitions", this::adminCreatePartitions);
            check("admin-configs", this::adminConfigs);
            quick("admin-delete-records", this::adminDeleteRecords);
            check("admin-list-offsets", this::adminListOffsets);
            check("admin-log-dirs", this::adminLogDirs);
            later("client-transaction", "transactions", this::transaction);
            later("client-group", "groups", this::group);
        }
    }

    private void check(String name, Check body) throws Exception {
        run(name, "", false, body);
    }

    private void quick(String name, Check body) throws Exception {
        run(name, "", true, body);
    }

    private void later(String name, String needs, Check body) throws Exception {
        run(name, needs, false, body);
    }

    private void run(String name, String needs, boolean inQuick, Check body) throws Exception {
        if (!report.runs(name, needs, inQuick)) return;
        long started = System.nanoTime();
        Throwable[] thrown = new Throwable[1];
        Thread thread = new Thread(() -> {
            try {
                body.run();
            } catch (Throwable e) {
                thrown[0] = e;
            }
        }, name);
        thread.setDaemon(true);
        thread.start();
        thread.join(TIMEOUT_SECONDS * 1000L);
        if (thread.isAlive()) {
            report.fail(name, "did not end within " + TIMEOUT_SECONDS + " s; it is in " + Arrays.toString(thread.getStackTrace()));
            thread.interrupt();
        } else if (thrown[0] != null) {
            StackTraceElement at = Arrays.stream(thrown[0].getStackTrace()).filter(e -> e.getClassName().startsWith("ClientChecks")).findFirst().orElse(null);
            report.fail(name, thrown[0] + (at == null ? "" : " at line " + at.getLineNumber()));
        } else {
            report.ok(name, System.nanoTime() - started);
        }
    }

    // What the checks are made of.

    private static void same(Object expected, Object got) {
        if (!expected.equals(got)) throw new AssertionError("expected " + expected + ", got " + got);
    }

    private static void hold(boolean condition, String what) {
        if (!condition) throw new AssertionError(what);
    }

    /** Repeats a look at the cluster until it finds what is expected: a change is answered before every broker knows it. */
    private static <T> void settles(T expected, Callable<? extends T> look) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(15);
        while (true) {
            try {
                T got = look.call();
                if (expected.equals(got)) return;
                if (System.nanoTime() > deadline) same(expected, got);
            } catch (ApiException e) {
                if (System.nanoTime() > deadline) throw e;
            }
            Thread.sleep(50);
        }
    }

    private static <T> T get(Future<T> future) throws Exception {
        try {
            return future.get(20, TimeUnit.SECONDS);
        } catch (ExecutionException e) {
            throw e.getCause() instanceof Exception ? (Exception) e.getCause() : e;
        }
    }

    private static <E extends Exception> E throwsOne(Class<E> expected, Check body) {
        try {
            body.run();
        } catch (Throwable e) {
            Throwable cause = e instanceof ExecutionException ? e.getCause() : e;
            if (expected.isInstance(cause)) return expected.cast(cause);
            throw new AssertionError("expected " + expected.getSimpleName() + ", got " + cause, e);
        }
        throw new AssertionError("expected " + expected.getSimpleName() + ", nothing was thrown");
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] bytes) {
        return bytes == null ? null : new String(bytes, StandardCharsets.UTF_8);
    }

    private String topic(String name, int partitions, Map<String, String> configs) throws Exception {
        String topic = prefix + "-" + name;
        get(admin.createTopics(List.of(new NewTopic(topic, partitions, REPLICAS).configs(configs))).all());
        // Kafka answers before every request sees the topic.
        settles(true, () -> get(admin.listTopics().names()).contains(topic));
        return topic;
    }

    private KafkaProducer<byte[], byte[]> producer(Map<String, String> settings) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", broker, "linger.ms", "5"));
        all.putAll(settings);
        return new KafkaProducer<>(all, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private KafkaConsumer<byte[], byte[]> consumer(Map<String, String> settings) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", broker, "auto.offset.reset", "earliest", "enable.auto.commit", "false"));
        all.putAll(settings);
        return new KafkaConsumer<>(all, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static List<String> values(String name, int count) {
        List<String> values = new ArrayList<>();
        for (int i = 0; i < count; i++) values.add(name + " " + i + " " + "x".repeat(i % 200));
        return values;
    }

    /** Sends the values to one partition and checks that the answers give consecutive offsets. */
    private void produce(TopicPartition partition, List<String> values, Map<String, String> settings) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer(settings)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (String value : values)
                sent.add(producer.send(new ProducerRecord<>(partition.topic(), partition.partition(), bytes("key"), bytes(value))));
            long previous = -1;
            for (Future<RecordMetadata> one : sent) {
                RecordMetadata metadata = get(one);
                if (!metadata.hasOffset()) continue;
                hold(previous == -1 || metadata.offset() == previous + 1, "offset " + metadata.offset() + " after " + previous);
                previous = metadata.offset();
            }
        }
    }

    private static List<ConsumerRecord<byte[], byte[]>> poll(KafkaConsumer<byte[], byte[]> consumer, int count) {
        List<ConsumerRecord<byte[], byte[]>> records = new ArrayList<>();
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
        while (records.size() < count && System.nanoTime() < deadline) consumer.poll(Duration.ofMillis(200)).forEach(records::add);
        return records;
    }

    /** Reads the whole partition and checks values, order and offsets. */
    private void expect(TopicPartition partition, List<String> values, Map<String, String> settings) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(settings)) {
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            List<ConsumerRecord<byte[], byte[]>> records = poll(consumer, values.size());
            same(values.size(), records.size());
            for (int i = 0; i < values.size(); i++) {
                same(values.get(i), text(records.get(i).value()));
                same((long) i, records.get(i).offset());
            }
            same(0, consumer.poll(Duration.ofMillis(100)).count());
        }
    }

    // The checks.

    private void describeCluster() throws Exception {
        Collection<Node> nodes = get(admin.describeCluster().nodes());
        hold(!nodes.isEmpty(), "no nodes");
        hold(get(admin.describeCluster().clusterId()).length() == 22, "the cluster id is not a base64 UUID");
        hold(nodes.contains(get(admin.describeCluster().controller())), "the controller is none of the nodes");
    }

    private void codec(String codec) throws Exception {
        TopicPartition partition = new TopicPartition(topic("codec-" + codec, 1, Map.of()), 0);
        List<String> values = values(codec, 2000);
        produce(partition, values, Map.of("compression.type", codec));
        expect(partition, values, Map.of());
    }

    private void acks(String acks) throws Exception {
        TopicPartition partition = new TopicPartition(topic("acks-" + acks, 1, Map.of()), 0);
        List<String> values = values(acks, 500);
        produce(partition, values, Map.of("acks", acks, "enable.idempotence", "false"));
        expect(partition, values, Map.of());
    }

    private void idempotent() throws Exception {
        TopicPartition partition = new TopicPartition(topic("idempotent", 1, Map.of()), 0);
        List<String> values = values("idempotent", 5000);
        Map<String, String> settings = Map.of("enable.idempotence", "true", "acks", "all", "batch.size", "1000", "linger.ms", "0");
        produce(partition, values, settings);
        expect(partition, values, Map.of("isolation.level", "read_committed"));
    }

    private void headersAndNulls() throws Exception {
        TopicPartition partition = new TopicPartition(topic("headers", 1, Map.of()), 0);
        try (KafkaProducer<byte[], byte[]> producer = producer(Map.of())) {
            ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(partition.topic(), 0, null, null);
            record.headers().add(new RecordHeader("empty", new byte[0])).add(new RecordHeader("null", null)).add(new RecordHeader("twice", bytes("1"))).add(new RecordHeader("twice", bytes("2")));
            get(producer.send(record));
            get(producer.send(new ProducerRecord<>(partition.topic(), 0, new byte[0], new byte[0])));
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of())) {
            consumer.assign(List.of(partition));
            List<ConsumerRecord<byte[], byte[]>> records = poll(consumer, 2);
            hold(records.get(0).key() == null && records.get(0).value() == null, "null key and value came back as something else");
            hold(records.get(1).key().length == 0 && records.get(1).value().length == 0, "empty key and value came back as something else");
            List<String> headers = new ArrayList<>();
            records.get(0).headers().forEach(header -> headers.add(header.key() + "=" + text(header.value())));
            same(List.of("empty=", "null=null", "twice=1", "twice=2"), headers);
        }
    }

    private void createTime() throws Exception {
        TopicPartition partition = new TopicPartition(topic("create-time", 1, Map.of()), 0);
        long time = System.currentTimeMillis() - 123_456;
        try (KafkaProducer<byte[], byte[]> producer = producer(Map.of())) {
            same(time, get(producer.send(new ProducerRecord<>(partition.topic(), 0, time, null, bytes("v")))).timestamp());
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of())) {
            consumer.assign(List.of(partition));
            ConsumerRecord<byte[], byte[]> record = poll(consumer, 1).get(0);
            same(time, record.timestamp());
            same(TimestampType.CREATE_TIME, record.timestampType());
        }
    }

    private void logAppendTime() throws Exception {
        TopicPartition partition = new TopicPartition(topic("append-time", 1, Map.of("message.timestamp.type", "LogAppendTime")), 0);
        long before = System.currentTimeMillis();
        long stamped;
        try (KafkaProducer<byte[], byte[]> producer = producer(Map.of("compression.type", "lz4"))) {
            stamped = get(producer.send(new ProducerRecord<>(partition.topic(), 0, 1000L, null, bytes("v")))).timestamp();
        }
        hold(stamped >= before - 1000 && stamped <= System.currentTimeMillis() + 1000, "append time " + stamped + " is not now, " + before);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of())) {
            consumer.assign(List.of(partition));
            ConsumerRecord<byte[], byte[]> record = poll(consumer, 1).get(0);
            same(stamped, record.timestamp());
            same(TimestampType.LOG_APPEND_TIME, record.timestampType());
        }
    }

    private void positions() throws Exception {
        TopicPartition partition = new TopicPartition(topic("positions", 1, Map.of()), 0);
        produce(partition, values("p", 100), Map.of());
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of("max.poll.records", "10"))) {
            consumer.assign(List.of(partition));
            same(0L, consumer.beginningOffsets(List.of(partition)).get(partition));
            same(100L, consumer.endOffsets(List.of(partition)).get(partition));
            consumer.seek(partition, 42);
            same(42L, poll(consumer, 1).get(0).offset());
            consumer.seekToEnd(List.of(partition));
            same(100L, consumer.position(partition));
            consumer.seekToBeginning(List.of(partition));
            same(0L, consumer.position(partition));
            consumer.pause(List.of(partition));
            same(0, consumer.poll(Duration.ofMillis(300)).count());
            consumer.resume(List.of(partition));
            same(0L, poll(consumer, 1).get(0).offset());
        }
    }

    private void offsetsForTimes() throws Exception {
        TopicPartition partition = new TopicPartition(topic("times", 1, Map.of()), 0);
        long base = System.currentTimeMillis() - 1_000_000;
        try (KafkaProducer<byte[], byte[]> producer = producer(Map.of())) {
            for (int i = 0; i < 50; i++) get(producer.send(new ProducerRecord<>(partition.topic(), 0, base + i * 1000, null, bytes("v" + i))));
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of())) {
            Map<Long, Long> wanted = new LinkedHashMap<>(Map.of(base, 0L, base + 1, 1L, base + 20_000, 20L, base + 48_001, 49L));
            for (Map.Entry<Long, Long> each : wanted.entrySet()) {
                OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(partition, each.getKey())).get(partition);
                same(each.getValue(), found.offset());
                same(base + found.offset() * 1000, found.timestamp());
            }
            Map<TopicPartition, OffsetAndTimestamp> none = consumer.offsetsForTimes(Map.of(partition, base + 50_000));
            hold(none.get(partition) == null, "a time after the last record found " + none);
        }
    }

    private void fetchSessions() throws Exception {
        String topic = topic("sessions", 8, Map.of());
        try (KafkaProducer<byte[], byte[]> producer = producer(Map.of()); KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of())) {
            List<TopicPartition> partitions = new ArrayList<>();
            for (int i = 0; i < 8; i++) partitions.add(new TopicPartition(topic, i));
            consumer.assign(partitions);
            Map<TopicPartition, Long> next = new HashMap<>();
            // Records come to one partition after another, so that most fetches change little in the session.
            for (int round = 0; round < 40; round++) {
                if (round == 20) consumer.assign(partitions.subList(0, 4));
                TopicPartition partition = partitions.get(round % (round < 20 ? 8 : 4));
                get(producer.send(new ProducerRecord<>(topic, partition.partition(), null, bytes("r" + round))));
                List<ConsumerRecord<byte[], byte[]>> records = poll(consumer, 1);
                same(1, records.size());
                same("r" + round, text(records.get(0).value()));
                same(next.getOrDefault(partition, 0L), records.get(0).offset());
                next.merge(partition, 1L, (a, b) -> a + 1);
                if (round == 19) next.keySet().retainAll(partitions.subList(0, 4));
            }
        }
    }

    private void smallFetches() throws Exception {
        TopicPartition partition = new TopicPartition(topic("small-fetches", 1, Map.of()), 0);
        List<String> values = new ArrayList<>();
        for (int i = 0; i < 100; i++) values.add("v" + i + "z".repeat(i % 10 == 0 ? 50_000 : 10));
        produce(partition, values, Map.of("batch.size", "200"));
        // Every tenth record is larger than the limits: a fetch returns at least one batch all the same.
        expect(partition, values, Map.of("fetch.max.bytes", "1000", "max.partition.fetch.bytes", "500"));
    }

    private void outOfRange() throws Exception {
        TopicPartition partition = new TopicPartition(topic("range", 1, Map.of()), 0);
        produce(partition, values("r", 10), Map.of());
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of("auto.offset.reset", "none"))) {
            consumer.assign(List.of(partition));
            consumer.seek(partition, 1000);
            OffsetOutOfRangeException thrown = throwsOne(OffsetOutOfRangeException.class, () -> poll(consumer, 1));
            same(Map.of(partition, 1000L), thrown.offsetOutOfRangePartitions());
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of())) {
            consumer.assign(List.of(partition));
            consumer.seek(partition, 1000);
            same(0L, poll(consumer, 1).get(0).offset());
        }
    }

    private void recordTooLarge() throws Exception {
        String topic = topic("too-large", 1, Map.of("max.message.bytes", "2000"));
        try (KafkaProducer<byte[], byte[]> producer = producer(Map.of())) {
            throwsOne(RecordTooLargeException.class, () -> get(producer.send(new ProducerRecord<>(topic, new byte[3000]))));
            same(0L, get(producer.send(new ProducerRecord<>(topic, new byte[1000]))).offset());
        }
    }

    private void missingTopic() throws Exception {
        String topic = prefix + "-missing";
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of("allow.auto.create.topics", "false"))) {
            List<?> found = consumer.partitionsFor(topic);
            hold(found == null || found.isEmpty(), "a missing topic has partitions " + found);
            throwsOne(TimeoutException.class, () -> consumer.endOffsets(List.of(new TopicPartition(topic, 0)), Duration.ofSeconds(2)));
        }
        throwsOne(UnknownTopicOrPartitionException.class, () -> get(admin.deleteTopics(List.of(topic)).all()));
    }

    private void autoCreate() throws Exception {
        String topic = prefix + "-auto";
        try (KafkaProducer<byte[], byte[]> producer = producer(Map.of())) {
            same(4, producer.partitionsFor(topic).size());
            get(producer.send(new ProducerRecord<>(topic, bytes("v"))));
        }
    }

    private void topicMadeWhileWaiting() throws Exception {
        TopicPartition partition = new TopicPartition(prefix + "-waiting", 0);
        Map<String, String> settings = Map.of("allow.auto.create.topics", "false", "metadata.max.age.ms", "500");
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(settings)) {
            consumer.assign(List.of(partition));
            consumer.poll(Duration.ofMillis(300));
            topic("waiting", 1, Map.of());
            produce(partition, List.of("v"), Map.of());
            same(1, poll(consumer, 1).size());
        }
    }

    private void topicMadeAgain() throws Exception {
        TopicPartition partition = new TopicPartition(topic("again", 1, Map.of()), 0);
        produce(partition, values("first", 10), Map.of());
        get(admin.deleteTopics(List.of(partition.topic())).all());
        for (int i = 0; ; i++) {
            try {
                topic("again", 1, Map.of());
                break;
            } catch (TopicExistsException e) {
                if (i == 50) throw e;
                Thread.sleep(100);
            }
        }
        List<String> values = values("second", 5);
        produce(partition, values, Map.of());
        expect(partition, values, Map.of());
    }

    private void adminTopics() throws Exception {
        String topic = topic("admin", 3, Map.of("retention.ms", "100000"));
        settles(true, () -> get(admin.listTopics().names()).contains(topic));
        throwsOne(TopicExistsException.class, () -> topic("admin", 3, Map.of()));
        throwsOne(InvalidTopicException.class, () -> topic("bad/name", 1, Map.of()));
        throwsOne(InvalidConfigurationException.class, () -> topic("bad-config", 1, Map.of("retention.ms", "never")));
        get(admin.deleteTopics(List.of(topic)).all());
        settles(false, () -> get(admin.listTopics().names()).contains(topic));
    }

    private void adminValidateOnly() throws Exception {
        NewTopic topic = new NewTopic(prefix + "-validate", 2, REPLICAS);
        var result = admin.createTopics(List.of(topic), new CreateTopicsOptions().validateOnly(true));
        same(2, get(result.numPartitions(topic.name())));
        hold(!get(admin.listTopics().names()).contains(topic.name()), "validate-only made the topic");
    }

    private void adminCreatePartitions() throws Exception {
        String topic = topic("grow", 1, Map.of());
        get(admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all());
        produce(new TopicPartition(topic, 4), List.of("v"), Map.of());
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of())) {
            settles(5, () -> consumer.partitionsFor(topic).size());
        }
    }

    private void adminConfigs() throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic("configs", 1, Map.of("retention.ms", "100000")));
        settles(List.of("100000", ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG), () -> config(resource, "retention.ms"));
        settles(List.of("1073741824", ConfigEntry.ConfigSource.DEFAULT_CONFIG), () -> config(resource, "segment.bytes"));
        List<AlterConfigOp> changes = List.of(new AlterConfigOp(new ConfigEntry("retention.ms", ""), AlterConfigOp.OpType.DELETE),
            new AlterConfigOp(new ConfigEntry("max.message.bytes", "5000"), AlterConfigOp.OpType.SET));
        get(admin.incrementalAlterConfigs(Map.of(resource, changes)).all());
        settles("604800000", () -> config(resource, "retention.ms").get(0));
        settles("5000", () -> config(resource, "max.message.bytes").get(0));
        List<AlterConfigOp> bad = List.of(new AlterConfigOp(new ConfigEntry("max.message.bytes", "-7"), AlterConfigOp.OpType.SET));
        throwsOne(InvalidConfigurationException.class, () -> get(admin.incrementalAlterConfigs(Map.of(resource, bad)).all()));
    }

    private List<Object> config(ConfigResource resource, String key) throws Exception {
        ConfigEntry entry = get(admin.describeConfigs(List.of(resource)).all()).get(resource).get(key);
        return List.of(entry.value(), entry.source());
    }

    private void adminDeleteRecords() throws Exception {
        TopicPartition partition = new TopicPartition(topic("delete-records", 1, Map.of()), 0);
        produce(partition, values("d", 20), Map.of());
        var result = admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(7)));
        same(7L, get(result.lowWatermarks().get(partition)).lowWatermark());
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of())) {
            same(7L, consumer.beginningOffsets(List.of(partition)).get(partition));
            consumer.assign(List.of(partition));
            consumer.seek(partition, 0);
            List<ConsumerRecord<byte[], byte[]>> records = poll(consumer, 13);
            same(13, records.size());
            same(7L, records.get(0).offset());
        }
    }

    private void adminListOffsets() throws Exception {
        TopicPartition partition = new TopicPartition(topic("list-offsets", 1, Map.of()), 0);
        produce(partition, values("l", 10), Map.of());
        ListOffsetsResultInfo latest = get(admin.listOffsets(Map.of(partition, OffsetSpec.latest())).partitionResult(partition));
        same(10L, latest.offset());
        hold(latest.leaderEpoch().isPresent(), "no leader epoch");
        same(0L, get(admin.listOffsets(Map.of(partition, OffsetSpec.earliest())).partitionResult(partition)).offset());
        same(0L, get(admin.listOffsets(Map.of(partition, OffsetSpec.forTimestamp(1))).partitionResult(partition)).offset());
        long future = System.currentTimeMillis() + 10_000_000;
        same(-1L, get(admin.listOffsets(Map.of(partition, OffsetSpec.forTimestamp(future))).partitionResult(partition)).offset());
    }

    private void adminLogDirs() throws Exception {
        TopicPartition partition = new TopicPartition(topic("log-dirs", 1, Map.of()), 0);
        produce(partition, values("l", 100), Map.of());
        int id = get(admin.describeCluster().nodes()).iterator().next().id();
        // A replica that no answer had to wait for gets the records, too.
        settles(true, () -> {
            var dirs = get(admin.describeLogDirs(Set.of(id)).allDescriptions()).get(id);
            return dirs.values().stream().filter(dir -> dir.replicaInfos().containsKey(partition))
                .mapToLong(dir -> dir.replicaInfos().get(partition).size()).sum() > 1000;
        });
    }

    private void transaction() throws Exception {
        TopicPartition partition = new TopicPartition(topic("transaction", 1, Map.of()), 0);
        try (KafkaProducer<byte[], byte[]> producer = producer(Map.of("transactional.id", prefix))) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(partition.topic(), 0, null, bytes("aborted")));
            producer.flush();
            producer.abortTransaction();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(partition.topic(), 0, null, bytes("committed")));
            producer.commitTransaction();
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of("isolation.level", "read_committed"))) {
            consumer.assign(List.of(partition));
            List<ConsumerRecord<byte[], byte[]>> records = poll(consumer, 1);
            same(1, records.size());
            same("committed", text(records.get(0).value()));
        }
    }

    private void group() throws Exception {
        TopicPartition partition = new TopicPartition(topic("group", 1, Map.of()), 0);
        produce(partition, values("g", 20), Map.of());
        for (int expected : List.of(20, 5)) {
            try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of("group.id", prefix))) {
                consumer.subscribe(List.of(partition.topic()));
                same(expected, poll(consumer, expected).size());
                consumer.commitSync();
            }
            produce(partition, values("more", 5), Map.of());
        }
    }
}
