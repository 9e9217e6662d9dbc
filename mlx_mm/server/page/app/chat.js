// An answer as it comes: the events of /v1/chat/completions, read from the body of a request that can be stopped.
import { ask, body, Failure } from "./api.js";

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
      else yield { comment: part.replace(/^: ?/, "") }; // how far a long prompt is read
    }
  }
}

const addCall = (calls, delta) => {
  const next = [...calls];
  const before = next[delta.index] ?? { name: "", arguments: "" };
  next[delta.index] = {
    name: before.name + (delta.function?.name ?? ""),
    arguments: before.arguments + (delta.function?.arguments ?? ""),
  };
  return next;
};

/** What is asked of the server about a conversation whose messages have text and ids of items. */
const asMessages = (messages) =>
  messages
    .filter((message) => message.text || message.items?.length)
    .map(({ role, text, items = [] }) => ({
      role,
      content: items.length
        ? [...items.map((id) => ({ type: "image_url", image_url: { url: `mm://item/${id}` } })), { type: "text", text }]
        : text,
    }));

/** Calls update with the answer so far; ends with it, or with the Failure of the server. */
export const answer = async (model, messages, signal, update) => {
  let now = { role: "assistant", text: "", reasoning: "", calls: [], boxes: [], reading: "" };
  const change = (more) => {
    now = { ...now, ...more };
    update(now);
  };
  const asked = { model, messages: asMessages(messages), stream: true };
  const response = await ask("/v1/chat/completions", { ...body(asked), signal });
  for await (const event of events(response)) {
    if (event.error) throw new Failure(event.error.message, 500);
    if (event.comment !== undefined) {
      change({ reading: event.comment });
      continue;
    }
    const [choice] = event.choices ?? [];
    const delta = choice?.delta ?? {};
    change({
      reading: "",
      text: now.text + (delta.content ?? ""),
      reasoning: now.reasoning + (delta.reasoning_content ?? ""),
      calls: (delta.tool_calls ?? []).reduce(addCall, now.calls),
      boxes: event.mlx_mm?.boxes ?? now.boxes,
      end: choice?.finish_reason ?? now.end,
    });
  }
  return now;
};
