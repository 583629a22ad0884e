// Calls Caravan and prints one line of JSON for each scenario that it is told to play: stream,
// resume, cancel, refuse, retry. The text of a stream goes to standard error as it comes.
import process from "node:process";

import { connect, explain, generate, stream, streamSome } from "./caravan.js";
import { streamThroughBreaks } from "./resume.js";
import { FinishReasonSchema } from "./gen/caravan/inference/v1/generation_pb.js";

const MODEL = "bundled";
const TIMEOUT_MS = 30_000;

const scenarios = {
  async stream(client) {
    return whole(await stream(client, request(32), { show, timeoutMs: TIMEOUT_MS }));
  },

  async resume(client) {
    return whole(await streamThroughBreaks(client, request(300), { show, timeoutMs: TIMEOUT_MS }));
  },

  async cancel(client) {
    const long = { ...request(100_000), ignoreEos: true };
    const result = await streamSome(client, long, { deltas: 3, timeoutMs: TIMEOUT_MS });
    return { request_id: result.requestId, finish_reason: nameOf(result.finishReason) };
  },

  async refuse(client) {
    const wrong = request(8);
    wrong.sampling.topP = 2;
    await client.generate(wrong, { timeoutMs: TIMEOUT_MS });
    return {};
  },

  async retry(client) {
    const refusals = [];
    const refused = (refusal) => refusals.push(describe(refusal));
    const response = await generate(client, request(8), { refused, timeoutMs: TIMEOUT_MS });
    return { text: response.choices[0].text, refusals };
  },
};

function show(text) {
  process.stderr.write(text);
}

function whole({ requestId, text, finishReason, outputTokens }) {
  return { request_id: requestId, text, finish_reason: nameOf(finishReason), output_tokens: outputTokens };
}

function request(maxOutputTokens) {
  return {
    model: MODEL,
    input: { case: "text", value: "Once upon a time" },
    maxOutputTokens,
    sampling: { temperature: 0 },
  };
}

function nameOf(finishReason) {
  return FinishReasonSchema.value[finishReason].name;
}

function describe({ code, reason, message, violations, retryAfterMs }) {
  const fields = violations.map((violation) => violation.field);
  return { code, reason, message, fields, retry_after_ms: retryAfterMs };
}

const client = connect(process.env.CARAVAN_ADDRESS, process.env.CARAVAN_API_KEY);
for (const name of process.argv.slice(2)) {
  const result = await scenarios[name](client).catch((error) => ({ failure: describe(explain(error)) }));
  console.log(JSON.stringify({ scenario: name, ...result }));
}
