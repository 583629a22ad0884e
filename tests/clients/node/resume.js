import { setTimeout as sleep } from "node:timers/promises";

import { Code } from "@connectrpc/connect";

import { emptyGeneration, explain, take } from "./caravan.js";
import { FinishReason } from "./gen/caravan/inference/v1/generation_pb.js";

const PAUSE_MS = 300;
const RESUMABLE = { "x-caravan-resumable": "1" };

/**
 * Like `stream`, and goes on when its connection breaks: the service keeps the stream for a minute,
 * and any gateway has the rest. `timeoutMs` bounds the whole.
 */
export async function streamThroughBreaks(client, request, { show, timeoutMs }) {
  const deadline = Date.now() + timeoutMs;
  const result = emptyGeneration();
  let events = client.streamGenerate(request, { timeoutMs, headers: RESUMABLE });
  for (;;) {
    try {
      for await (const { event } of events) {
        take(result, event);
        if (event.case === "delta") show(event.value.text);
      }
      return result;
    } catch (error) {
      if (!isBroken(error) || !result.requestId) throw error;
      await sleep(PAUSE_MS);
      events = rest(client, request.model, result, { timeoutMs: deadline - Date.now() });
    }
  }
}

/** Yields what follows the tokens that were received. */
async function* rest(client, model, { requestId, tokens, finishReason }, options) {
  const received = { outputTokens: tokens, finished: finishReason !== FinishReason.UNSPECIFIED };
  const stream = { model, requestId, choices: [received] };
  for await (const { event } of client.resumeGenerate(stream, options)) yield event;
}

/** Whether the connection broke, or the gateway is on its way down; not what a gateway answered. */
function isBroken(error) {
  const { code, reason } = explain(error);
  // Connect says of a connection that was cut that it was cancelled; a gateway would say why.
  return code === Code.Unavailable || (code === Code.Canceled && !reason);
}
