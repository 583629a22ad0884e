package caravan.example;

import caravan.gateway.v1.ReceivedChoice;
import caravan.gateway.v1.ResumeGenerateRequest;
import caravan.gateway.v1.ResumeGenerateResponse;
import caravan.gateway.v1.StreamServiceGrpc;
import caravan.gateway.v1.StreamServiceGrpc.StreamServiceBlockingStub;
import caravan.inference.v1.FinishReason;
import caravan.inference.v1.GenerateEvent;
import caravan.inference.v1.GenerateRequest;
import caravan.inference.v1.GenerateResponse;
import caravan.inference.v1.InferenceServiceGrpc;
import caravan.inference.v1.InferenceServiceGrpc.InferenceServiceBlockingStub;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.Iterator;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/** Calls of a gateway with one key. */
final class Caravan implements AutoCloseable {
  private static final int MAX_ATTEMPTS = 4;
  private static final long PAUSE_BEFORE_RESUMING_MS = 300;
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final Metadata.Key<String> RESUMABLE =
      Metadata.Key.of("x-caravan-resumable", Metadata.ASCII_STRING_MARSHALLER);

  private final ManagedChannel channel;
  private final InferenceServiceBlockingStub inference;
  private final StreamServiceBlockingStub streams;
  private final Duration timeout;

  /** Opens a channel in plaintext; for TLS take {@code TlsChannelCredentials} instead. */
  Caravan(String address, String key, Duration timeout) {
    Metadata headers = new Metadata();
    headers.put(AUTHORIZATION, "Bearer " + key);
    this.channel =
        Grpc.newChannelBuilder(address, InsecureChannelCredentials.create())
            .intercept(MetadataUtils.newAttachHeadersInterceptor(headers))
            .build();
    this.inference = InferenceServiceGrpc.newBlockingStub(channel);
    this.streams = StreamServiceGrpc.newBlockingStub(channel);
    this.timeout = timeout;
  }

  /** Generates and hands each piece of text to {@code show} as it comes. */
  Generation stream(GenerateRequest request, Consumer<String> show) {
    Generation result = new Generation();
    Iterator<GenerateEvent> events = inference.withDeadline(deadline()).streamGenerate(request);
    while (events.hasNext()) {
      GenerateEvent event = events.next();
      result.take(event);
      show.accept(event.getDelta().getText());
    }
    return result;
  }

  /**
   * Like {@link #stream}, and goes on when its connection breaks: the service keeps the stream for
   * a minute, and any gateway has the rest. One deadline bounds the whole.
   */
  Generation streamThroughBreaks(GenerateRequest request, Consumer<String> show)
      throws InterruptedException {
    Deadline deadline = deadline();
    Generation result = new Generation();
    Metadata headers = new Metadata();
    headers.put(RESUMABLE, "1");
    Iterator<GenerateEvent> events =
        inference
            .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers))
            .withDeadline(deadline)
            .streamGenerate(request);
    while (true) {
      try {
        while (events.hasNext()) {
          GenerateEvent event = events.next();
          result.take(event);
          show.accept(event.getDelta().getText());
        }
        return result;
      } catch (StatusRuntimeException error) {
        boolean broken = error.getStatus().getCode() == Status.Code.UNAVAILABLE;
        if (!broken || result.requestId().isEmpty()) {
          throw error;
        }
        TimeUnit.MILLISECONDS.sleep(PAUSE_BEFORE_RESUMING_MS);
        events = rest(request.getModel(), result, deadline);
      }
    }
  }

  /** Receives what follows the tokens that were received. */
  private Iterator<GenerateEvent> rest(String model, Generation received, Deadline deadline) {
    boolean finished = received.finishReason() != FinishReason.FINISH_REASON_UNSPECIFIED;
    ReceivedChoice choice =
        ReceivedChoice.newBuilder()
            .setOutputTokens(received.tokens())
            .setFinished(finished)
            .build();
    ResumeGenerateRequest request =
        ResumeGenerateRequest.newBuilder()
            .setModel(model)
            .setRequestId(received.requestId())
            .addChoices(choice)
            .build();
    Iterator<ResumeGenerateResponse> rest =
        streams.withDeadline(deadline).resumeGenerate(request);
    return new Iterator<>() {
      @Override
      public boolean hasNext() {
        return rest.hasNext();
      }

      @Override
      public GenerateEvent next() {
        return rest.next().getEvent();
      }
    };
  }

  /**
   * Cancels a generation after some deltas and returns what came until then, without a finish
   * reason. The model stops computing at once.
   */
  Generation streamSome(GenerateRequest request, int deltas) {
    Generation result = new Generation();
    Context.CancellableContext call = Context.current().withCancellation();
    try {
      call.run(
          () -> {
            Iterator<GenerateEvent> events =
                inference.withDeadline(deadline()).streamGenerate(request);
            while (events.hasNext()) {
              result.take(events.next());
              if (result.deltas() == deltas) {
                call.cancel(null);
              }
            }
          });
    } catch (StatusRuntimeException error) {
      if (error.getStatus().getCode() != Status.Code.CANCELLED) {
        throw error;
      }
    } finally {
      call.cancel(null);
    }
    return result;
  }

  /** Generates once, without repeating anything. */
  GenerateResponse generate(GenerateRequest request) {
    return inference.withDeadline(deadline()).generate(request);
  }

  /**
   * Repeats a call for as long as the service says when to come back, and tells {@code refused} of
   * each time. One deadline bounds all attempts together; a delay beyond it is not begun.
   */
  GenerateResponse generateWithRetries(GenerateRequest request, Consumer<Failure> refused)
      throws InterruptedException {
    Deadline deadline = deadline();
    for (int attempt = 1; ; attempt++) {
      try {
        return inference.withDeadline(deadline).generate(request);
      } catch (StatusRuntimeException error) {
        Failure refusal = Failure.explain(error);
        if (refusal.retryAfter().isEmpty() || attempt == MAX_ATTEMPTS) {
          throw error;
        }
        long delayMs = refusal.retryAfter().get().toMillis();
        if (delayMs >= deadline.timeRemaining(TimeUnit.MILLISECONDS)) {
          throw error;
        }
        refused.accept(refusal);
        TimeUnit.MILLISECONDS.sleep(delayMs);
      }
    }
  }

  @Override
  public void close() throws InterruptedException {
    channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
  }

  private Deadline deadline() {
    return Deadline.after(timeout.toMillis(), TimeUnit.MILLISECONDS);
  }
}
