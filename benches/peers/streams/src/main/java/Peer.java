import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.time.Duration;
import java.time.Instant;
import java.time.OffsetDateTime;
import java.time.ZoneId;
import java.time.format.DateTimeFormatter;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

/** Counts calls and system errors per tenant and month: Kafka Streams, exactly_once_v2. BROKERS TOPIC EVENTS [dedupe]. */
public final class Peer {
    static final ObjectMapper JSON = new ObjectMapper();
    static final ZoneId ZONE = ZoneId.of("Asia/Shanghai");
    static final DateTimeFormatter MONTH = DateTimeFormatter.ofPattern("yyyy-MM");
    static final Duration WINDOW = Duration.ofMinutes(15);
    static final AtomicLong READ = new AtomicLong();
    static final CountDownLatch DONE = new CountDownLatch(1);
    static final Map<String, String> RESULT = new ConcurrentHashMap<>();

    /** The counts of one partition. */
    static final class Counter implements Processor<byte[], byte[], Void, Void> {
        private final boolean dedupe;
        private final long events;
        private KeyValueStore<String, String> counts;
        private WindowStore<String, byte[]> ids;

        Counter(boolean dedupe, long events) {
            this.dedupe = dedupe;
            this.events = events;
        }

        @Override
        public void init(ProcessorContext<Void, Void> context) {
            counts = context.getStateStore("counts");
            ids = dedupe ? context.getStateStore("ids") : null;
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            try {
                count(JSON.readTree(record.value()), record.timestamp());
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            if (READ.incrementAndGet() == events) {
                DONE.countDown();
            }
        }

        private void count(JsonNode call, long arrival) {
            if (dedupe) {
                String id = call.get("request_id").asText();
                try (var earlier = ids.fetch(id, Instant.ofEpochMilli(arrival).minus(WINDOW), Instant.ofEpochMilli(arrival))) {
                    if (earlier.hasNext()) {
                        return;
                    }
                }
                ids.put(id, new byte[0], arrival);
            }
            String month = MONTH.format(OffsetDateTime.parse(call.get("timestamp").asText()).atZoneSameInstant(ZONE));
            String key = call.get("tenant").asText() + " " + month;
            String before = counts.get(key);
            long calls = 1;
            long failures = failed(call) ? 1 : 0;
            if (before != null) {
                int space = before.indexOf(' ');
                calls += Long.parseLong(before.substring(0, space));
                failures += Long.parseLong(before.substring(space + 1));
            }
            counts.put(key, calls + " " + failures);
        }

        /** By its flag, or without one by its code. */
        private static boolean failed(JsonNode call) {
            JsonNode flag = call.get("system_error");
            if (flag != null && !flag.isNull()) {
                return flag.asBoolean();
            }
            JsonNode code = call.get("code");
            String family = code == null ? "" : code.asText().split("\\.", 2)[0];
            return family.equals("InternalError") || family.equals("ServiceUnavailable");
        }

        @Override
        public void close() {
            try (var all = counts.all()) {
                all.forEachRemaining(entry -> RESULT.put(entry.key, entry.value));
            }
        }
    }

    public static void main(String[] args) throws Exception {
        long events = Long.parseLong(args[2]);
        boolean dedupe = args.length > 3 && args[3].equals("dedupe");
        var properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, "peer-streams-" + ProcessHandle.current().pid());
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        properties.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, Files.createTempDirectory("peer-streams").toString());
        properties.put("auto.offset.reset", "earliest");

        var builder = new StreamsBuilder();
        builder.addStateStore(Stores.keyValueStoreBuilder(
                Stores.persistentKeyValueStore("counts"), Serdes.String(), Serdes.String()).withCachingEnabled());
        String[] stores = dedupe ? new String[] {"counts", "ids"} : new String[] {"counts"};
        if (dedupe) {
            builder.addStateStore(Stores.windowStoreBuilder(
                    Stores.persistentWindowStore("ids", WINDOW.multipliedBy(2), WINDOW, false),
                    Serdes.String(), Serdes.ByteArray()));
        }
        builder.stream(args[1], Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .process(() -> new Counter(dedupe, events), stores);
        try (var streams = new KafkaStreams(builder.build(), properties)) {
            streams.setUncaughtExceptionHandler(error -> {
                error.printStackTrace();
                Runtime.getRuntime().halt(1);
                return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
            streams.start();
            DONE.await();
        }
        var out = new StringBuilder();
        RESULT.forEach((key, value) -> out.append(key).append(' ').append(value).append('\n'));
        System.out.print(out);
    }
}
