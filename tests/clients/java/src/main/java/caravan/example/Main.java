package caravan.example;

import caravan.inference.v1.GenerateRequest;
import caravan.inference.v1.SamplingOptions;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.rpc.BadRequest.FieldViolation;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Calls Caravan and prints one line of JSON for each scenario that it is told to play: stream,
 * resume, cancel, refuse, retry. The text of a stream goes to standard error as it comes.
 */
public final class Main {
  private static final String MODEL = "bundled";
  private static final Duration TIMEOUT = Duration.ofSeconds(30);
  private static final Gson JSON = new GsonBuilder().disableHtmlEscaping().create();

  private Main() {}

  public static void main(String[] names) throws InterruptedException {
    String address = System.getenv("CARAVAN_ADDRESS");
    try (Caravan caravan = new Caravan(address, System.getenv("CARAVAN_API_KEY"), TIMEOUT)) {
      for (String name : names) {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("scenario", name);
        try {
          line.putAll(play(name, caravan));
        } catch (StatusRuntimeException error) {
          line.put("failure", describe(Failure.explain(error)));
        }
        System.out.println(JSON.toJson(line));
      }
    }
  }

  private static Map<String, Object> play(String name, Caravan caravan)
      throws InterruptedException {
    return switch (name) {
      case "stream" -> stream(caravan);
      case "resume" -> resume(caravan);
      case "cancel" -> cancel(caravan);
      case "refuse" -> refuse(caravan);
      case "retry" -> retry(caravan);
      default -> throw new IllegalArgumentException("no such scenario: " + name);
    };
  }

  private static Map<String, Object> stream(Caravan caravan) {
    return whole(caravan.stream(request(32).build(), System.err::print));
  }

  private static Map<String, Object> resume(Caravan caravan) throws InterruptedException {
    return whole(caravan.streamThroughBreaks(request(300).build(), System.err::print));
  }

  private static Map<String, Object> whole(Generation result) {
    return Map.of(
        "request_id", result.requestId(),
        "text", result.text(),
        "finish_reason", result.finishReason().name(),
        "output_tokens", result.outputTokens());
  }

  private static Map<String, Object> cancel(Caravan caravan) {
    GenerateRequest endless = request(100_000).setIgnoreEos(true).build();
    Generation result = caravan.streamSome(endless, 3);
    return Map.of(
        "request_id", result.requestId(), "finish_reason", result.finishReason().name());
  }

  private static Map<String, Object> refuse(Caravan caravan) {
    GenerateRequest.Builder wrong = request(8);
    wrong.getSamplingBuilder().setTopP(2);
    caravan.generate(wrong.build());
    return Map.of();
  }

  private static Map<String, Object> retry(Caravan caravan) throws InterruptedException {
    List<Map<String, Object>> refusals = new ArrayList<>();
    var response =
        caravan.generateWithRetries(
            request(8).build(), refusal -> refusals.add(describe(refusal)));
    return Map.of("text", response.getChoices(0).getText(), "refusals", refusals);
  }

  private static GenerateRequest.Builder request(int maxOutputTokens) {
    return GenerateRequest.newBuilder()
        .setModel(MODEL)
        .setText("Once upon a time")
        .setMaxOutputTokens(maxOutputTokens)
        .setSampling(SamplingOptions.newBuilder().setTemperature(0));
  }

  private static Map<String, Object> describe(Failure failure) {
    Map<String, Object> result = new LinkedHashMap<>();
    result.put("code", failure.code());
    result.put("reason", failure.reason());
    result.put("message", failure.message());
    result.put("fields", failure.violations().stream().map(FieldViolation::getField).toList());
    failure.retryAfter().ifPresent(delay -> result.put("retry_after_ms", delay.toMillis()));
    return result;
  }
}
