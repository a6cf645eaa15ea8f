// Vercel's AI SDK over three providers: chat completions, responses, Anthropic's messages.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, streamText, tool } from "ai";
import { MODEL, QUESTION, SCHEMA, URL, assert, isThing, raised, run, untilIdle } from "./checks.mjs";

const baseURL = `${URL}/v1`;
const compatible = createOpenAICompatible({
  name: "brigade",
  baseURL,
  apiKey: "any",
  supportsStructuredOutputs: true,
  includeUsage: true,
});
const models = {
  compatible: compatible(MODEL),
  responses: createOpenAI({ baseURL, apiKey: "any" }).responses(MODEL),
  anthropic: createAnthropic({ baseURL, apiKey: "any" })(MODEL),
};
const carry = tool({ description: "Carries.", inputSchema: jsonSchema(SCHEMA) });
const checks = {};

for (const [name, model] of Object.entries(models)) {
  const ask = { model, prompt: QUESTION, temperature: 0, maxRetries: 0 };
  checks[`${name}_streams_what_it_gives_whole`] = async () => {
    const whole = await generateText({ ...ask, maxOutputTokens: 30 });
    const stream = streamText({ ...ask, maxOutputTokens: 30 });
    assert((await stream.text) === whole.text && whole.text !== "");
    assert((await stream.usage).outputTokens === whole.usage.outputTokens);
  };
  checks[`${name}_calls_a_tool`] = async () => {
    const forced = { ...ask, tools: { carry }, toolChoice: "required", maxOutputTokens: 200 };
    const whole = await generateText(forced);
    assert(isThing(whole.toolCalls[0].input));
    const streamed = await streamText(forced).toolCalls;
    assert(isThing(streamed[0].input));
  };
  checks[`${name}_tells_of_mistakes`] = async () => {
    const error = await raised(generateText({ ...ask, prompt: "a ".repeat(9000) }));
    assert(error.statusCode === 400 && /tokens/.test(error.message), String(error));
  };
}
checks.an_object_is_generated = async () => {
  const output = Output.object({ schema: jsonSchema(SCHEMA) });
  const made = await generateText({ model: models.compatible, prompt: QUESTION, output });
  assert(isThing(made.output));
};
checks.a_stream_that_is_left_stops_the_generation = async () => {
  const leave = new AbortController();
  const stream = streamText({
    model: models.compatible,
    prompt: QUESTION,
    abortSignal: leave.signal,
    providerOptions: { brigade: { ignore_eos: true } },
  });
  for await (const _ of stream.textStream) break;
  leave.abort();
  await untilIdle();
};
await run(checks);
