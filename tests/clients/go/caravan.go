package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	inference "caravan.example/stubs/caravan/inference/v1"
)

const maxAttempts = 4

// apiKey sends `authorization: Bearer <key>` with every call.
type apiKey string

func (key apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(key)}, nil
}

// RequireTransportSecurity is false for plaintext on this machine; say true anywhere else.
func (apiKey) RequireTransportSecurity() bool { return false }

// connect opens a channel to a gateway in plaintext. For TLS take credentials.NewTLS instead.
func connect(address, key string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(apiKey(key)))
}

// generation is what a stream has brought so far.
type generation struct {
	requestID    string
	text         strings.Builder
	deltas       int
	tokens       uint32
	finishReason inference.FinishReason
	outputTokens uint32
}

// take adds an event. Kinds of events that this program doesn't know are none of its business.
func (g *generation) take(event *inference.GenerateEvent) {
	switch kind := event.Event.(type) {
	case *inference.GenerateEvent_Started:
		g.requestID = kind.Started.RequestId
	case *inference.GenerateEvent_Delta:
		g.deltas++
		g.tokens += uint32(len(kind.Delta.TokenIds))
		g.text.WriteString(kind.Delta.Text)
	case *inference.GenerateEvent_Finished:
		g.finishReason = kind.Finished.FinishReason
	case *inference.GenerateEvent_Completed:
		g.outputTokens = kind.Completed.Usage.OutputTokens
	}
}

// stream generates and hands each piece of text to show as it comes.
func stream(ctx context.Context, client inference.InferenceServiceClient,
	request *inference.GenerateRequest, show func(string),
) (*generation, error) {
	events, err := client.StreamGenerate(ctx, request)
	if err != nil {
		return nil, err
	}
	result := &generation{}
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return result, nil
		}
		if err != nil {
			return result, err
		}
		result.take(event)
		show(event.GetDelta().GetText())
	}
}

// streamSome cancels a generation after some deltas and returns what came until then, without a
// finish reason. The model stops computing at once.
func streamSome(ctx context.Context, client inference.InferenceServiceClient,
	request *inference.GenerateRequest, deltas int,
) (*generation, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := client.StreamGenerate(ctx, request)
	if err != nil {
		return nil, err
	}
	result := &generation{}
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
			return result, nil
		}
		if err != nil {
			return result, err
		}
		if result.take(event); result.deltas == deltas {
			cancel()
		}
	}
}

// failure is what an error of Caravan says beside its code.
type failure struct {
	code       codes.Code
	message    string
	reason     string // see caravan.errors.v1.ErrorReason
	violations []*errdetails.BadRequest_FieldViolation
	retryAfter *time.Duration // nil: repeating it won't help
}

// explain reads the details that travel in an error's status.
func explain(err error) failure {
	state := status.Convert(err)
	result := failure{code: state.Code(), message: state.Message()}
	for _, detail := range state.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			result.reason = detail.Reason
		case *errdetails.BadRequest:
			result.violations = detail.FieldViolations
		case *errdetails.RetryInfo:
			delay := detail.RetryDelay.AsDuration()
			result.retryAfter = &delay
		}
	}
	return result
}

// generate repeats a call for as long as the service says when to come back, and tells refused of
// each time. The deadline of ctx bounds all attempts together; a delay beyond it is not begun.
func generate(ctx context.Context, client inference.InferenceServiceClient,
	request *inference.GenerateRequest, refused func(failure),
) (*inference.GenerateResponse, error) {
	for attempt := 1; ; attempt++ {
		response, err := client.Generate(ctx, request)
		if err == nil {
			return response, nil
		}
		refusal := explain(err)
		if refusal.retryAfter == nil || attempt == maxAttempts {
			return nil, err
		}
		comeBack := time.Now().Add(*refusal.retryAfter)
		if deadline, bounded := ctx.Deadline(); bounded && comeBack.After(deadline) {
			return nil, err
		}
		refused(refusal)
		select {
		case <-time.After(time.Until(comeBack)):
		case <-ctx.Done():
			return nil, err
		}
	}
}
