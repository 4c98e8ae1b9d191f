import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's console tools by their main methods, one after another in one JVM. The format of the steps file is described at
 * its head. Each step gets a class loader of its own, because some tools keep counts in static fields.
 */
final class ToolSteps {
    /** Where a tool's main class is, in the order of Kafka's history: the first that exists is taken. */
    private static final Map<String, List<String>> TOOLS = Map.ofEntries(
        tool("kafka-topics", "org.apache.kafka.tools.TopicCommand", "kafka.admin.TopicCommand"),
        tool("kafka-configs", "kafka.admin.ConfigCommand"),
        tool("kafka-get-offsets", "org.apache.kafka.tools.GetOffsetShell", "kafka.tools.GetOffsetShell"),
        tool("kafka-delete-records", "org.apache.kafka.tools.DeleteRecordsCommand", "kafka.admin.DeleteRecordsCommand"),
        tool("kafka-log-dirs", "org.apache.kafka.tools.LogDirsCommand", "kafka.admin.LogDirsCommand"),
        tool("kafka-broker-api-versions", "org.apache.kafka.tools.BrokerApiVersionsCommand", "kafka.admin.BrokerApiVersionsCommand"),
        tool("kafka-console-producer", "org.apache.kafka.tools.ConsoleProducer", "kafka.tools.ConsoleProducer"),
        tool("kafka-console-consumer", "org.apache.kafka.tools.consumer.ConsoleConsumer", "kafka.tools.ConsoleConsumer"),
        tool("kafka-producer-perf-test", "org.apache.kafka.tools.ProducerPerformance"),
        tool("kafka-consumer-perf-test", "org.apache.kafka.tools.ConsumerPerformance", "kafka.tools.ConsumerPerformance"),
        tool("kafka-verifiable-producer", "org.apache.kafka.tools.VerifiableProducer"),
        tool("kafka-verifiable-consumer", "org.apache.kafka.tools.VerifiableConsumer"),
        tool("kafka-consumer-groups", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "kafka.admin.ConsumerGroupCommand"),
        tool("kafka-groups", "org.apache.kafka.tools.GroupsCommand"),
        tool("kafka-leader-election", "org.apache.kafka.tools.LeaderElectionCommand", "kafka.admin.LeaderElectionCommand"),
        tool("kafka-reassign-partitions", "org.apache.kafka.tools.reassign.ReassignPartitionsCommand", "kafka.admin.ReassignPartitionsCommand"),
        tool("kafka-cluster", "org.apache.kafka.tools.ClusterTool", "kafka.tools.ClusterTool"),
        tool("kafka-features", "org.apache.kafka.tools.FeatureCommand", "kafka.admin.FeatureCommand"),
        tool("kafka-metadata-quorum", "org.apache.kafka.tools.MetadataQuorumCommand"),
        tool("kafka-transactions", "org.apache.kafka.tools.TransactionsCommand"),
        tool("kafka-acls", "org.apache.kafka.tools.AclCommand", "kafka.admin.AclCommand"));

    private static Map.Entry<String, List<String>> tool(String name, String... classes) {
        return Map.entry(name, List.of(classes));
    }

    /** Thrown in the place of System.exit. */
    private static final class Exited extends Error {
        private Exited() {
            super("exit", null, false, false);
        }
    }

    private final int[] version;
    private final Path logs;
    private final URL[] toolJars;
    private final Report report;
    private final Map<String, String> variables = new LinkedHashMap<>();
    private final List<Runnable> shutdownHooks = new CopyOnWriteArrayList<>();
    private volatile Integer exitStatus;

    ToolSteps(String broker, String version, Path logs, String[] toolJars, Report report) throws Exception {
        this.version = parse(version);
        this.logs = logs;
        this.report = report;
        this.toolJars = new URL[toolJars.length];
        for (int i = 0; i < toolJars.length; i++) this.toolJars[i] = Path.of(toolJars[i]).toUri().toURL();
        variables.put("broker", broker);
        variables.put("port", broker.substring(broker.lastIndexOf(':') + 1));
        variables.put("t", "tools-" + System.currentTimeMillis());
        variables.put("replicas", System.getenv("REPLICAS"));
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", broker))) {
            List<String> ids = admin.describeCluster().nodes().get(20, TimeUnit.SECONDS).stream().map(Node::idString).toList();
            variables.put("id", ids.get(0));
            variables.put("ids", String.join(",", ids));
        }
    }

    void run(Path stepsFile) throws Exception {
        Exit.Procedure exit = (status, message) -> {
            if (exitStatus == null) exitStatus = status;
            throw new Exited();
        };
        Exit.setExitProcedure(exit);
        Exit.setHaltProcedure(exit);
        Exit.setShutdownHookAdder((name, hook) -> shutdownHooks.add(hook));
        for (Map<String, String> step : read(stepsFile)) {
            if (step.containsKey("from") && compare(version, parse(step.get("from"))) < 0) continue;
            if (step.containsKey("before") && compare(version, parse(step.get("before"))) >= 0) continue;
            String name = step.get("name");
            if (!report.runs(name, step.getOrDefault("needs", ""), step.containsKey("quick"))) continue;
            long started = System.nanoTime();
            String why = perform(step);
            // Kafka answers a change before every reader sees it.
            for (int i = 0; i < 5 && why != null && step.containsKey("eventually"); i++) {
                Thread.sleep(1000);
                why = perform(step);
            }
            if (why == null) report.ok(name, System.nanoTime() - started);
            else report.fail(name, why);
        }
    }

    private List<Map<String, String>> read(Path stepsFile) throws IOException {
        List<Map<String, String>> steps = new ArrayList<>();
        for (String line : Files.readAllLines(stepsFile)) {
            if (line.isBlank() || line.startsWith("#")) continue;
            if (line.startsWith("[")) {
                steps.add(new LinkedHashMap<>(Map.of("name", line.substring(1, line.indexOf(']')))));
                continue;
            }
            String[] parts = line.split(": *", 2);
            if (parts.length != 2 || steps.isEmpty()) throw new IOException("not a line of a step: " + line);
            steps.get(steps.size() - 1).put(parts[0], parts[1]);
        }
        return steps;
    }

    private String fill(String text) {
        for (Map.Entry<String, String> variable : variables.entrySet())
            text = text.replace("{" + variable.getKey() + "}", variable.getValue());
        return text;
    }

    /** Runs one step; the answer is null or what is wrong. */
    private String perform(Map<String, String> step) throws Exception {
        if (step.containsKey("file")) {
            Path file = logs.resolve(step.get("name") + ".json");
            Files.writeString(file, fill(step.get("file")));
            variables.put("file", file.toString());
        }
        String[] words = fill(step.get("run")).split(" +");
        for (int i = 0; i < words.length; i++) words[i] = words[i].replace("%20", " ");
        String input = fill(step.getOrDefault("in", "")).replace("\\n", "\n").replace("\\t", "\t");
        int seconds = Integer.parseInt(step.getOrDefault("seconds", "60"));
        boolean mayFail = step.containsKey("fails");
        Pattern wanted = Pattern.compile(fill(mayFail ? step.get("fails") : step.getOrDefault("expect", "")), Pattern.DOTALL);

        System.setIn(new ByteArrayInputStream(input.getBytes(StandardCharsets.UTF_8)));
        Capture.start();
        exitStatus = null;
        shutdownHooks.clear();
        Throwable[] thrown = new Throwable[1];
        // Open until the end of the step: hooks and threads that outlive main load classes too.
        URLClassLoader loader = new URLClassLoader(toolJars, getClass().getClassLoader());
        boolean ended = bounded(seconds, () -> thrown[0] = runMain(loader, words));
        // What a tool leaves to the end of its JVM: flushing a producer, printing totals.
        bounded(10, () -> shutdownHooks.forEach(Runnable::run));
        // A main that returned without an exit may have threads that still print.
        for (int i = 0; i < 30 && ended && exitStatus == null && thrown[0] == null && !wanted.matcher(Capture.text()).find(); i++) Thread.sleep(100);
        loader.close();
        String text = Capture.text() + (thrown[0] == null ? "" : "\n" + thrown[0]);
        Files.writeString(logs.resolve(step.get("name") + ".log"), String.join(" ", words) + "\n" + text + "\nstatus " + exitStatus + "\n");

        boolean failed = thrown[0] != null || (exitStatus != null && exitStatus != 0);
        if (!ended) return "did not end within " + seconds + " s; " + tellingLine(text);
        if (failed && !mayFail) return tellingLine(text);
        if (!failed && mayFail) return "succeeded, though it should fail; " + tellingLine(text);
        return wanted.matcher(text).find() ? null : "the output lacks /" + wanted + "/: " + tellingLine(text);
    }

    private Throwable runMain(ClassLoader loader, String[] words) {
        try {
            Thread.currentThread().setContextClassLoader(loader);
            for (String candidate : TOOLS.get(words[0])) {
                Class<?> main;
                try {
                    main = loader.loadClass(candidate);
                } catch (ClassNotFoundException e) {
                    continue;
                }
                main.getMethod("main", String[].class).invoke(null, (Object) Arrays.copyOfRange(words, 1, words.length));
                return null;
            }
            return new ClassNotFoundException(words[0]);
        } catch (InvocationTargetException e) {
            return e.getCause() instanceof Exited ? null : e.getCause();
        } catch (Exception e) {
            return e;
        }
    }

    private static boolean bounded(int seconds, Runnable work) throws InterruptedException {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Exited e) {
                // The status was noted when it was thrown.
            } catch (Throwable e) {
                System.out.println(e);
            }
        });
        thread.setDaemon(true);
        thread.start();
        thread.join(seconds * 1000L);
        if (!thread.isAlive()) return true;
        thread.interrupt();
        return false;
    }

    /** The last line that names an error, else the last line. */
    private static String tellingLine(String text) {
        String last = "no output", error = null;
        for (String line : text.split("\n")) {
            if (line.isBlank() || line.startsWith("\tat ") || line.startsWith("\t...") || line.contains(Exited.class.getName())) continue;
            last = line;
            if (line.contains("Exception") || line.contains("rror")) error = line;
        }
        String said = error == null ? last : error;
        return said.length() > 250 ? said.substring(0, 250) : said;
    }

    private static int[] parse(String version) {
        return Arrays.stream(version.split("\\.")).mapToInt(Integer::parseInt).toArray();
    }

    private static int compare(int[] left, int[] right) {
        return Arrays.compare(left, right);
    }
}
