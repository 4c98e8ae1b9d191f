import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import java.util.zip.CRC32;
import org.apache.kafka.clients.consumer.ConsumerInterceptor;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** A producer and a group's consumer of Kafka's Java client. Arguments and files: see README.md, "Clients during faults". */
public final class JavaClient {
    private static final int KEYS = 96;
    private static final int REPEATS = 11;
    private static final int DIGITS = 9;
    /** Where {@link Commits}, which the client makes by itself, writes. */
    private static Lines commits;

    /** Lines, which reach the disk at least every 200 ms of use. */
    private static final class Lines {
        private final BufferedWriter writer;
        private long flushed;

        Lines(Path folder, String name) throws IOException {
            writer = Files.newBufferedWriter(folder.resolve(name));
        }

        synchronized void line(String words) {
            long now = System.currentTimeMillis();
            try {
                writer.write(now + " " + words.replace('\n', ' ') + "\n");
                if (now - flushed > 200) {
                    writer.flush();
                    flushed = now;
                }
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }

        synchronized void flush() throws IOException {
            writer.flush();
        }
    }

    /** Is told of each commit that was acknowledged; of others, nobody is. */
    public static final class Commits implements ConsumerInterceptor<byte[], byte[]> {
        @Override
        public ConsumerRecords<byte[], byte[]> onConsume(ConsumerRecords<byte[], byte[]> records) {
            return records;
        }

        @Override
        public void onCommit(Map<TopicPartition, OffsetAndMetadata> offsets) {
            offsets.forEach((place, offset) -> commits.line(place.partition() + " " + offset.offset() + " 1"));
        }

        @Override
        public void close() {}

        @Override
        public void configure(Map<String, ?> settings) {}
    }

    private final String bootstrap;
    private final String topic;
    private final String group;
    private final double rate;
    private final Lines acks;
    private final Lines deliveries;
    private final Lines errors;
    private final AtomicLong settled = new AtomicLong();
    private volatile long sent;
    private volatile boolean stopping;
    private volatile Map<Integer, Long> ends;

    private JavaClient(String[] args) throws IOException {
        bootstrap = args[0];
        topic = args[1];
        group = args[2];
        rate = Double.parseDouble(args[3]);
        Path folder = Path.of(args[4]);
        acks = new Lines(folder, "acks");
        deliveries = new Lines(folder, "deliveries");
        errors = new Lines(folder, "errors");
        commits = new Lines(folder, "commits");
    }

    public static void main(String[] args) throws Exception {
        new JavaClient(args).run();
        // Whatever thread of a client is left must not keep the process.
        System.exit(0);
    }

    private void run() throws Exception {
        Thread sender = start(this::send);
        Thread reader = start(this::read);
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in));
        for (String command = commands.readLine(); command != null; command = commands.readLine()) {
            String[] words = command.strip().split(" ");
            if (words[0].equals("stop")) {
                stopping = true;
                sender.join();
                say("produced " + sent);
            } else if (words[0].equals("drain")) {
                Map<Integer, Long> until = new HashMap<>();
                for (int i = 1; i < words.length; i++) {
                    String[] pair = words[i].split(":");
                    until.put(Integer.parseInt(pair[0]), Long.parseLong(pair[1]));
                }
                ends = until;
                reader.join();
                errors.flush();
                commits.flush();
                say("consumed");
                return;
            }
        }
    }

    private static Thread start(Runnable body) {
        Thread thread = new Thread(body);
        thread.start();
        return thread;
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    /** The value of a record, as faults/checker.py has it. */
    private static String value(long number) {
        return number + " " + HexFormat.of().toHexDigits((int) (number * 2654435761L)).repeat(REPEATS);
    }

    /** The number at the head of a value, or -1. */
    private static long number(byte[] value) {
        long number = -1;
        for (int at = 0; value != null && at < value.length && value[at] != ' '; at++) {
            if (value[at] < '0' || value[at] > '9' || at > DIGITS) return -1;
            number = Math.max(number, 0) * 10 + value[at] - '0';
        }
        return number > Integer.MAX_VALUE ? -1 : number;
    }

    private static long checksum(ConsumerRecord<byte[], byte[]> record) {
        CRC32 crc = new CRC32();
        if (record.key() != null) crc.update(record.key());
        if (record.value() != null) crc.update(record.value());
        return crc.getValue();
    }

    /** Sends numbered records at a steady rate until told to stop, and waits for what becomes of them. */
    private void send() {
        try (KafkaProducer<String, String> producer =
                new KafkaProducer<>(Map.of("bootstrap.servers", bootstrap), new StringSerializer(), new StringSerializer())) {
            long began = System.nanoTime();
            while (!stopping) {
                long number = sent;
                long early = began + (long) (number / rate * 1e9) - System.nanoTime();
                if (early > 0) Thread.sleep(early / 1_000_000, (int) (early % 1_000_000));
                sent = number + 1;
                try {
                    producer.send(new ProducerRecord<>(topic, "k" + number % KEYS, value(number)), (metadata, error) -> {
                        settled.incrementAndGet();
                        if (error != null) errors.line("delivery record " + number + ": " + error);
                        else acks.line(number + " " + metadata.partition() + " " + (metadata.hasOffset() ? metadata.offset() : -1));
                    });
                } catch (RuntimeException e) {
                    settled.incrementAndGet();
                    errors.line("produce record " + number + ": " + e);
                }
            }
            // It waits no longer than delivery.timeout.ms, two minutes by default.
            producer.flush();
            if (settled.get() != sent) errors.line("unsettled " + (sent - settled.get()) + " records had neither an acknowledgement nor an error");
            acks.flush();
        } catch (Exception e) {
            errors.line("produce " + e);
        }
    }

    /** Reads as a member of the group, committing as it comes by default. */
    private void read() {
        // Read from the first record on: the default of a new group is the end.
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "group.id", group, "auto.offset.reset", "earliest",
                "interceptor.classes", Commits.class.getName());
        Map<Integer, Long> next = new HashMap<>();
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(topic));
            while (!done(next)) {
                try {
                    for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                        deliveries.line(number(record.value()) + " " + record.partition() + " " + record.offset() + " " + checksum(record));
                        next.put(record.partition(), record.offset() + 1);
                    }
                } catch (RuntimeException e) {
                    errors.line("consumer " + e);
                    // One that stays must not fill the disk.
                    Thread.sleep(100);
                }
            }
            deliveries.flush();
        } catch (Exception e) {
            errors.line("consumer " + e);
        }
    }

    private boolean done(Map<Integer, Long> next) {
        Map<Integer, Long> until = ends;
        return until != null && until.entrySet().stream().allMatch(end -> next.getOrDefault(end.getKey(), 0L) >= end.getValue());
    }
}
