import java.io.IOException;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Pattern;

/** Prints a line a check, and decides which checks run: by --only, by --quick, and by the features in the file `later`. */
final class Report {
    private final PrintStream out;
    private final String suite = System.getenv("SUITE");
    private final boolean quick = "1".equals(System.getenv("QUICK"));
    private final Pattern only = Pattern.compile(System.getenv().getOrDefault("ONLY", "."));
    private final Map<String, String> later = new HashMap<>();

    Report(PrintStream out) throws IOException {
        this.out = out;
        String off = " " + System.getenv().getOrDefault("LATER", "") + " ";
        for (String line : Files.readAllLines(Path.of(System.getenv("COMPAT"), "later"))) {
            String[] parts = line.strip().split("\\s+", 2);
            if (parts.length == 2 && off.contains(" " + parts[0] + " ")) later.put(parts[0], parts[1]);
        }
    }

    /** Whether the check runs. One that needs a feature of the file `later` is reported as skipped here. */
    boolean runs(String name, String needs, boolean inQuick) {
        if (!only.matcher(suite + "/" + name).find() || (quick && !inQuick)) return false;
        for (String feature : needs.split("[, ]+")) {
            if (later.containsKey(feature)) {
                line("skip %s/%s: %s", suite, name, later.get(feature));
                return false;
            }
        }
        return true;
    }

    void ok(String name, long nanos) {
        line("ok %s/%s (%.1f s)", suite, name, nanos / 1e9);
    }

    void fail(String name, String why) {
        line("FAIL %s/%s: %s", suite, name, why.replaceAll("\\s+", " ").strip());
    }

    private void line(String format, Object... values) {
        out.printf(Locale.ROOT, format + "%n", values);
        out.flush();
    }
}
