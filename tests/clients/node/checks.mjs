// What every script here shares; see checks.py.

export const URL = process.env.GATEWAY;
export const MODEL = "brigade-tiny";
export const QUESTION = "What is Bucket Brigade?";
export const SCHEMA = {
  type: "object",
  properties: {
    kind: { enum: ["bucket", "rope", "ladder"] },
    size: { type: "integer", minimum: 0, maximum: 99 },
  },
  required: ["kind", "size"],
  additionalProperties: false,
};

export function assert(claim, message = "not so") {
  if (!claim) throw new Error(message);
}

export function isThing(value) {
  return SCHEMA.properties.kind.enum.includes(value.kind) && Number.isInteger(value.size);
}

export async function raised(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("nothing was raised");
}

export async function untilIdle() {
  for (let i = 0; i < 200; i++) {
    const page = await (await fetch(`${URL}/metrics`)).text();
    if (page.includes("brigade_gateway_requests_running 0.0")) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error("a generation runs on after its client has gone");
}

export async function run(checks) {
  for (const [name, claim] of Object.entries(checks)) {
    try {
      await claim();
      console.log(`ok    ${name}`);
    } catch (error) {
      console.log(`FAIL  ${name}`, error);
      process.exitCode = 1;
    }
  }
}
