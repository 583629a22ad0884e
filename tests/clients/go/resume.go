package main

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	gateway "caravan.example/stubs/caravan/gateway/v1"
	inference "caravan.example/stubs/caravan/inference/v1"
)

const pauseBeforeResuming = 300 * time.Millisecond

// caravan calls the services that a program with a key may call.
type caravan struct {
	inference.InferenceServiceClient
	gateway.StreamServiceClient
}

// streamThroughBreaks is like stream, and goes on when its connection breaks: the service keeps the
// stream for a minute, and any gateway has the rest. The deadline of ctx bounds the whole.
func streamThroughBreaks(ctx context.Context, client caravan,
	request *inference.GenerateRequest, show func(string),
) (*generation, error) {
	resumable := metadata.AppendToOutgoingContext(ctx, "x-caravan-resumable", "1")
	events, err := client.StreamGenerate(resumable, request)
	if err != nil {
		return nil, err
	}
	result := &generation{}
	receive := events.Recv
	for {
		event, err := receive()
		switch {
		case err == nil:
			result.take(event)
			show(event.GetDelta().GetText())
		case errors.Is(err, io.EOF):
			return result, nil
		case status.Code(err) != codes.Unavailable || result.requestID == "":
			return result, err
		default:
			time.Sleep(pauseBeforeResuming)
			receive = rest(ctx, client, request.Model, result)
		}
	}
}

// rest receives what follows the tokens that were received.
func rest(ctx context.Context, client caravan, model string, received *generation,
) func() (*inference.GenerateEvent, error) {
	events, err := client.ResumeGenerate(ctx, &gateway.ResumeGenerateRequest{
		Model:     model,
		RequestId: received.requestID,
		Choices: []*gateway.ReceivedChoice{{
			OutputTokens: received.tokens,
			Finished:     received.finishReason != inference.FinishReason_FINISH_REASON_UNSPECIFIED,
		}},
	})
	return func() (*inference.GenerateEvent, error) {
		if err != nil {
			return nil, err
		}
		response, err := events.Recv()
		return response.GetEvent(), err
	}
}
