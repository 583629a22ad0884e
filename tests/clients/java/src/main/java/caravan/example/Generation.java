package caravan.example;

import caravan.inference.v1.FinishReason;
import caravan.inference.v1.GenerateEvent;

/** What a stream has brought so far. */
final class Generation {
  private final StringBuilder text = new StringBuilder();
  private String requestId = "";
  private int deltas;
  private int tokens;
  private FinishReason finishReason = FinishReason.FINISH_REASON_UNSPECIFIED;
  private int outputTokens;

  /** Adds an event; kinds of events that this program doesn't know are none of its business. */
  void take(GenerateEvent event) {
    switch (event.getEventCase()) {
      case STARTED -> requestId = event.getStarted().getRequestId();
      case DELTA -> {
        deltas++;
        tokens += event.getDelta().getTokenIdsCount();
        text.append(event.getDelta().getText());
      }
      case FINISHED -> finishReason = event.getFinished().getFinishReason();
      case COMPLETED -> outputTokens = event.getCompleted().getUsage().getOutputTokens();
      default -> {}
    }
  }

  String requestId() {
    return requestId;
  }

  String text() {
    return text.toString();
  }

  int deltas() {
    return deltas;
  }

  int tokens() {
    return tokens;
  }

  FinishReason finishReason() {
    return finishReason;
  }

  int outputTokens() {
    return outputTokens;
  }
}
