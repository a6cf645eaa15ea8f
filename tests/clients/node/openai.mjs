// openai-node, whatever its release: chat completions and responses.

import OpenAI from "openai";
import { MODEL, QUESTION, SCHEMA, URL, assert, isThing, raised, run, untilIdle } from "./checks.mjs";

const sdk = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "any", timeout: 60_000 });
const ask = { model: MODEL, messages: [{ role: "user", content: QUESTION }], temperature: 0 };
const respond = { model: MODEL, input: QUESTION, temperature: 0 };
const fn = { name: "carry", parameters: SCHEMA, strict: true };

await run({
  async a_stream_says_what_the_whole_answer_says() {
    const whole = await sdk.chat.completions.create({ ...ask, max_tokens: 30 });
    const stream = sdk.chat.completions.stream({ ...ask, max_tokens: 30 });
    assert((await stream.finalContent()) === whole.choices[0].message.content);
  },
  async responses_stream_what_they_give_whole() {
    const whole = await sdk.responses.create(respond);
    const stream = sdk.responses.stream(respond);
    const made = await stream.finalResponse();
    assert(made.output_text === whole.output_text && made.output_text !== "");
  },
  async a_tool_is_called_whole_and_streamed() {
    const tools = [{ type: "function", function: fn }];
    const forced = { ...ask, tools, tool_choice: "required" };
    const whole = (await sdk.chat.completions.create(forced)).choices[0].message;
    assert(isThing(JSON.parse(whole.tool_calls[0].function.arguments)));
    const streamed = await sdk.chat.completions.stream(forced).finalMessage();
    assert(
      streamed.tool_calls[0].function.arguments === whole.tool_calls[0].function.arguments,
    );
    const made = await sdk.responses.create({
      ...respond,
      tools: [{ type: "function", ...fn }],
      tool_choice: "required",
    });
    const call = made.output.find((item) => item.type === "function_call");
    assert(isThing(JSON.parse(call.arguments)));
  },
  async answers_in_a_form_are_parsed() {
    const format = { type: "json_schema", name: "thing", schema: SCHEMA, strict: true };
    const made = await sdk.responses.parse({ ...respond, text: { format } });
    assert(isThing(JSON.parse(made.output_text)));
  },
  async mistakes_are_the_sdk_s_own_errors() {
    const missing = await raised(sdk.responses.create({ ...respond, model: "x" }));
    assert(missing instanceof OpenAI.NotFoundError && missing.code === "model_not_found");
    const wrong = await raised(sdk.chat.completions.create({ ...ask, temperature: 9 }));
    assert(wrong instanceof OpenAI.BadRequestError && wrong.param === "temperature");
  },
  async a_stream_that_is_left_stops_the_generation() {
    const stream = await sdk.chat.completions.create({ ...ask, ignore_eos: true, stream: true });
    for await (const _ of stream) break;
    await untilIdle();
  },
});
