import { setTimeout as sleep } from "node:timers/promises";

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { durationMs } from "@bufbuild/protobuf/wkt";

import { StreamService } from "./gen/caravan/gateway/v1/stream_service_pb.js";
import { FinishReason } from "./gen/caravan/inference/v1/generation_pb.js";
import { InferenceService } from "./gen/caravan/inference/v1/inference_service_pb.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

const MAX_ATTEMPTS = 4;

/** Makes a client of a gateway's services that sends `authorization: Bearer <key>` with every call. */
export function connect(address, key) {
  const authenticate = (next) => (request) => {
    request.header.set("authorization", `Bearer ${key}`);
    return next(request);
  };
  // For TLS write https:// here.
  const transport = createGrpcTransport({ baseUrl: `http://${address}`, interceptors: [authenticate] });
  return { ...createClient(InferenceService, transport), ...createClient(StreamService, transport) };
}

/** Generates, hands each piece of text to `show` as it comes, and returns the whole. */
export async function stream(client, request, { show, timeoutMs }) {
  const result = emptyGeneration();
  for await (const { event } of client.streamGenerate(request, { timeoutMs })) {
    take(result, event);
    if (event.case === "delta") show(event.value.text);
  }
  return result;
}

/**
 * Cancels a generation after some deltas and returns what came until then, without a finish
 * reason. The model stops computing at once.
 */
export async function streamSome(client, request, { deltas, timeoutMs }) {
  const canceller = new AbortController();
  const result = emptyGeneration();
  try {
    for await (const { event } of client.streamGenerate(request, { timeoutMs, signal: canceller.signal })) {
      take(result, event);
      if (result.deltas === deltas) canceller.abort();
    }
  } catch (error) {
    if (ConnectError.from(error).code !== Code.Canceled) throw error;
  }
  return result;
}

export function emptyGeneration() {
  return { requestId: "", text: "", deltas: 0, tokens: 0, finishReason: FinishReason.UNSPECIFIED, outputTokens: 0 };
}

/** Adds an event. Kinds of events that this program doesn't know are none of its business. */
export function take(generation, event) {
  switch (event.case) {
    case "started":
      generation.requestId = event.value.requestId;
      break;
    case "delta":
      generation.deltas += 1;
      generation.tokens += event.value.tokenIds.length;
      generation.text += event.value.text;
      break;
    case "finished":
      generation.finishReason = event.value.finishReason;
      break;
    case "completed":
      generation.outputTokens = event.value.usage.outputTokens;
      break;
  }
}

/** What an error of Caravan says beside its code. */
export function explain(error) {
  const status = ConnectError.from(error);
  const [info] = status.findDetails(ErrorInfoSchema);
  const [badRequest] = status.findDetails(BadRequestSchema);
  const [retryInfo] = status.findDetails(RetryInfoSchema);
  return {
    code: status.code,
    message: status.rawMessage,
    reason: info?.reason, // see caravan.errors.v1.ErrorReason
    violations: badRequest?.fieldViolations ?? [],
    retryAfterMs: retryInfo && durationMs(retryInfo.retryDelay), // undefined: repeating won't help
  };
}

/**
 * Repeats a call for as long as the service says when to come back, and tells `refused` of each
 * time. `timeoutMs` bounds all attempts together; a delay beyond it is not begun.
 */
export async function generate(client, request, { refused, timeoutMs }) {
  const deadline = Date.now() + timeoutMs;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await client.generate(request, { timeoutMs: deadline - Date.now() });
    } catch (error) {
      const refusal = explain(error);
      const delayMs = refusal.retryAfterMs;
      if (delayMs === undefined || attempt === MAX_ATTEMPTS) throw error;
      if (Date.now() + delayMs >= deadline) throw error;
      refused(refusal);
      await sleep(delayMs);
    }
  }
}
