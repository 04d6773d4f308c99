// An endpoint as this page asks it: what it serves, answers as they come, and what is said of them.

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const SPEAKERS = { user: "User", assistant: "Assistant" };

export class Endpoint {
  // `base` is the URL that its `v1/` stands below, with a slash at its end.
  constructor(base, key) {
    this.base = base;
    this.key = key;
    this.chats = true;
  }

  async settings() {
    return (await this.#ask("page/settings.json")).json();
  }

  async models() {
    const reply = await this.#ask("v1/models");
    return { models: (await reply.json()).data, artifact: reply.headers.get("trunkline-artifact") ?? "" };
  }

  // Events of an answer: `{begun}` with its artifact and receipt, `{text}` pieces, `{plugin}` that runs or has run,
  // `{usage}`, `{reason}` it ended for.
  async *answer(model, messages, sampling, signal) {
    const asked = { model, stream: true, stream_options: { include_usage: true }, ...sampling };
    try {
      yield* this.#stream(asked, messages, signal);
    } catch (error) {
      if (!(this.chats && error instanceof Refusal && error.message.includes("chat template"))) throw error;
      this.chats = false; // a base model, which continues a transcript
      yield* this.#stream(asked, messages, signal);
    }
  }

  async *#stream(asked, messages, signal) {
    const path = this.chats ? "v1/chat/completions" : "v1/completions";
    const given = this.chats ? { messages } : { prompt: transcript(messages), stop: [...(asked.stop ?? []), "\nUser:"] };
    const reply = await this.#ask(path, { ...asked, ...given }, signal);
    yield { begun: { artifact: reply.headers.get("trunkline-artifact") ?? "", receipt: reply.headers.get("trunkline-receipt") ?? "" } };
    for await (const event of events(reply.body)) {
      if (event.error) throw new Refusal(500, event.error.message ?? "the answer broke off");
      if (event.plugin) yield { plugin: event.plugin };
      if (event.usage) yield { usage: event.usage };
      const choice = event.choices?.[0];
      const text = choice?.delta?.content ?? choice?.text;
      if (text) yield { text };
      if (choice?.finish_reason) yield { reason: choice.finish_reason };
    }
  }

  // What a reward model says of an answer to `messages`, of which the end is read; `cut`: it has no end of its own.
  async score(model, messages, answer, cut) {
    const asked = { model, queries: messages, documents: [answer], continue_final_message: cut, truncate_prompt_tokens: -1 };
    const reply = await this.#ask("v1/score", asked);
    return { score: (await reply.json()).data[0].score, artifact: reply.headers.get("trunkline-artifact") ?? "" };
  }

  async say(said) {
    return (await this.#ask("feedback", said)).json();
  }

  async #ask(path, body, signal) {
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    const options = { headers, signal, credentials: "omit", redirect: "error" };
    if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } });
    let reply;
    try {
      reply = await fetch(new URL(path, this.base), options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(0, "the endpoint does not answer");
    }
    if (reply.ok) return reply;
    const told = await reply.json().catch(() => null);
    const wait = reply.headers.get("retry-after");
    const message = told?.error?.message ?? `${reply.status} ${reply.statusText}`;
    throw new Refusal(reply.status, wait && !message.includes("Try again") ? `${message}. Try again in ${wait} s` : message);
  }
}

// The other endpoints behind the same port, as Ray Serve's proxy lists them: their names and bases.
export async function others(own) {
  const reply = await fetch(new URL("/-/routes", own), { credentials: "omit" }).catch(() => null);
  const routes = reply?.ok ? await reply.json().catch(() => ({})) : {};
  return Object.entries(routes)
    .map(([route, name]) => ({ name: String(name), base: new URL(`${route.replace(/\/$/, "")}/`, own).href }))
    .filter(({ base }) => base !== own);
}

// The base of an endpoint that somebody wrote; null where this page may not ask it.
export function baseOf(text, own) {
  const written = text.trim().replace(/\/v1\/?$/, "/");
  if (!written || !URL.canParse(written, own)) return null;
  const url = new URL(written.endsWith("/") ? written : `${written}/`, own);
  return url.origin === new URL(own).origin ? url.origin + url.pathname : null;
}

function transcript(messages) {
  const turns = messages.map(({ role, content }) => (SPEAKERS[role] ? `${SPEAKERS[role]}: ${content.trim()}` : content.trim()));
  return [...turns, "Assistant:"].join("\n\n");
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      rest += value ?? "";
      const parts = rest.split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
      if (done) throw new Refusal(0, "the answer broke off");
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
