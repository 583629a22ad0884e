package caravan.example;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;
import java.util.Optional;

/**
 * What an error of Caravan says beside its code.
 *
 * @param code the number of the gRPC status code
 * @param message what happened, for people
 * @param reason what happened, for programs; see {@code caravan.errors.v1.ErrorReason}
 * @param violations the faulty fields
 * @param retryAfter when to come back; empty where repeating won't help
 */
record Failure(
    int code,
    String message,
    String reason,
    List<BadRequest.FieldViolation> violations,
    Optional<Duration> retryAfter) {

  /** Reads the details that travel in an error's status. */
  static Failure explain(StatusRuntimeException error) {
    Status status = StatusProto.fromThrowable(error);
    String reason = "";
    List<BadRequest.FieldViolation> violations = List.of();
    Optional<Duration> retryAfter = Optional.empty();
    try {
      for (Any detail : status.getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          reason = detail.unpack(ErrorInfo.class).getReason();
        } else if (detail.is(BadRequest.class)) {
          violations = detail.unpack(BadRequest.class).getFieldViolationsList();
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          retryAfter = Optional.of(Duration.ofSeconds(delay.getSeconds(), delay.getNanos()));
        }
      }
    } catch (InvalidProtocolBufferException broken) {
      throw new IllegalArgumentException("an error with unreadable details", broken);
    }
    return new Failure(status.getCode(), status.getMessage(), reason, violations, retryAfter);
  }
}
