// Anthropic's SDK for Node.

import Anthropic from "@anthropic-ai/sdk";
import { MODEL, QUESTION, SCHEMA, URL, assert, isThing, raised, run, untilIdle } from "./checks.mjs";

const sdk = new Anthropic({ baseURL: URL, apiKey: "any", timeout: 60_000 });
const messages = [{ role: "user", content: QUESTION }];
const ask = { model: MODEL, max_tokens: 30, temperature: 0, messages };
const tools = [{ name: "carry", input_schema: SCHEMA }];

await run({
  async a_stream_says_what_the_whole_message_says() {
    const whole = await sdk.messages.create(ask);
    const made = await sdk.messages.stream(ask).finalMessage();
    assert(made.content[0].text === whole.content[0].text);
    assert(made.stop_reason === whole.stop_reason);
  },
  async a_tool_is_used_whole_and_streamed() {
    const forced = { ...ask, max_tokens: 200, tools, tool_choice: { type: "any" } };
    const whole = await sdk.messages.create(forced);
    assert(isThing(whole.content.find((block) => block.type === "tool_use").input));
    const made = await sdk.messages.stream(forced).finalMessage();
    assert(isThing(made.content.find((block) => block.type === "tool_use").input));
  },
  async mistakes_are_the_sdk_s_own_errors() {
    const error = await raised(sdk.messages.create({ ...ask, model: "x" }));
    assert(error instanceof Anthropic.NotFoundError);
    assert(error.error.error.type === "not_found_error");
  },
  async a_stream_that_is_left_stops_the_generation() {
    const stream = sdk.messages.stream({ ...ask, max_tokens: 1500, ignore_eos: true });
    for await (const event of stream) if (event.type === "content_block_delta") break;
    await untilIdle();
  },
});
