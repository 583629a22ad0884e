// Command client calls Caravan and prints one line of JSON for each scenario that it is told to
// play: stream, resume, cancel, refuse, retry. The text of a stream goes to standard error as it comes.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	gateway "caravan.example/stubs/caravan/gateway/v1"
	inference "caravan.example/stubs/caravan/inference/v1"
)

const (
	model       = "bundled"
	callTimeout = 30 * time.Second
)

type scenario func(context.Context, caravan) (map[string]any, error)

var scenarios = map[string]scenario{
	"stream": playStream,
	"resume": playResume,
	"cancel": playCancel,
	"refuse": playRefuse,
	"retry":  playRetry,
}

func main() {
	connection, err := connect(os.Getenv("CARAVAN_ADDRESS"), os.Getenv("CARAVAN_API_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	client := caravan{
		inference.NewInferenceServiceClient(connection), gateway.NewStreamServiceClient(connection),
	}
	for _, name := range os.Args[1:] {
		play, known := scenarios[name]
		if !known {
			log.Fatalf("no such scenario: %s", name)
		}
		report(name, client, play)
	}
}

func report(name string, client caravan, play scenario) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	result, err := play(ctx, client)
	if err != nil {
		result = map[string]any{"failure": describe(explain(err))}
	}
	result["scenario"] = name
	line, err := json.Marshal(result)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}

func playStream(ctx context.Context, client caravan) (map[string]any, error) {
	result, err := stream(ctx, client, request(32), show)
	if err != nil {
		return nil, err
	}
	return whole(result), nil
}

func playResume(ctx context.Context, client caravan) (map[string]any, error) {
	result, err := streamThroughBreaks(ctx, client, request(300), show)
	if err != nil {
		return nil, err
	}
	return whole(result), nil
}

func playCancel(ctx context.Context, client caravan) (map[string]any, error) {
	long := request(100_000)
	long.IgnoreEos = true
	result, err := streamSome(ctx, client, long, 3)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"request_id":    result.requestID,
		"finish_reason": result.finishReason.String(),
	}, nil
}

func playRefuse(ctx context.Context, client caravan) (map[string]any, error) {
	wrong := request(8)
	wrong.Sampling.TopP = new(float32(2))
	_, err := client.Generate(ctx, wrong)
	return map[string]any{}, err
}

func playRetry(ctx context.Context, client caravan) (map[string]any, error) {
	refusals := []map[string]any{}
	response, err := generate(ctx, client, request(8), func(refusal failure) {
		refusals = append(refusals, describe(refusal))
	})
	if err != nil {
		return nil, err
	}
	return map[string]any{"text": response.Choices[0].Text, "refusals": refusals}, nil
}

func show(text string) { fmt.Fprint(os.Stderr, text) }

func whole(g *generation) map[string]any {
	return map[string]any{
		"request_id":    g.requestID,
		"text":          g.text.String(),
		"finish_reason": g.finishReason.String(),
		"output_tokens": g.outputTokens,
	}
}

func request(tokens uint32) *inference.GenerateRequest {
	return &inference.GenerateRequest{
		Model:           model,
		Input:           &inference.GenerateRequest_Text{Text: "Once upon a time"},
		MaxOutputTokens: &tokens,
		Sampling:        &inference.SamplingOptions{Temperature: new(float32(0))},
	}
}

func describe(f failure) map[string]any {
	fields := []string{}
	for _, violation := range f.violations {
		fields = append(fields, violation.Field)
	}
	result := map[string]any{
		"code": f.code, "reason": f.reason, "message": f.message, "fields": fields,
	}
	if f.retryAfter != nil {
		result["retry_after_ms"] = f.retryAfter.Milliseconds()
	}
	return result
}
