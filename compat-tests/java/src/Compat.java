import java.io.PrintStream;
import java.nio.file.Path;

/** Arguments: bootstrap server, Kafka version, log folder, steps file, and the jars that hold the tools (each step loads them anew). */
public final class Compat {
    public static void main(String[] args) throws Exception {
        PrintStream stdout = System.out;
        // Scala's Console and logging frameworks keep the stream they find first, so it has to be one that can be redirected.
        Capture.install();
        Report report = new Report(stdout);
        new ClientChecks(args[0], report).run();
        new ToolSteps(args[0], args[1], Path.of(args[2]), args[4].split(":"), report).run(Path.of(args[3]));
        stdout.flush();
        Runtime.getRuntime().halt(0);
    }
}
