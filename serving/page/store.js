// What this browser keeps: conversations and settings, for each endpoint; and the key, for this tab alone.

const PREFIX = `trunkline:${location.pathname}:`;
const MOST = 100; // conversations; the oldest go first

export const DEFAULTS = {
  model: "", compare: "", url: "", system: "", temperature: "", top_p: "", top_k: "", max_tokens: "", seed: "",
  stop: "", consent: false, scores: true, plugins: [],
};

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name)) ?? otherwise;
  } catch {
    return otherwise; // nothing of ours, or storage that is switched off
  }
}

// Whether it is kept: a browser's storage may be full, or switched off.
function write(name, value) {
  try {
    // Pictures would fill it: they stay as long as the page does.
    localStorage.setItem(PREFIX + name, JSON.stringify(value, (field, each) => (field === "b64_json" ? undefined : each)));
    return true;
  } catch {
    return false;
  }
}

export const settings = {
  read: () => ({ ...DEFAULTS, ...read("settings", {}) }),
  write: (value) => write("settings", value),
};

export const conversations = {
  read: () => read("conversations", []),
  write(all) {
    const kept = all.slice(0, MOST);
    while (kept.length && !write("conversations", kept)) kept.pop();
  },
};

export const key = {
  read: () => sessionStorage.getItem(`${PREFIX}key`) ?? "",
  write: (text) => (text ? sessionStorage.setItem(`${PREFIX}key`, text) : sessionStorage.removeItem(`${PREFIX}key`)),
};

// A conversation is turns: what was asked, with the system prompt and the sampling of that moment, and the answers to
// it, of which the `picked` one is what the conversation goes on with.
export function newConversation() {
  return { id: crypto.randomUUID?.() ?? String(Math.random()).slice(2), title: "", turns: [] };
}

export const final = (answer) => answer.edited ?? answer.text;

// The messages before the answers of a turn. Turns that nothing answered are left out.
export function messagesBefore(conversation, turn) {
  const at = conversation.turns.indexOf(turn);
  const earlier = conversation.turns.slice(0, at).flatMap((each) => {
    const text = each.answers.length ? final(each.answers[each.picked]) : "";
    return text.trim() ? [{ role: "user", content: each.asked }, { role: "assistant", content: text }] : [];
  });
  const system = turn.system.trim() ? [{ role: "system", content: turn.system }] : [];
  return [...system, ...earlier, { role: "user", content: turn.asked }];
}

// The sampling that the settings ask for: what is left empty is the endpoint's business.
export function sampling(given) {
  const numbers = ["temperature", "top_p", "top_k", "max_tokens", "seed"].filter((name) => given[name] !== "");
  const asked = Object.fromEntries(numbers.map((name) => [name, Number(given[name])]));
  const stop = given.stop.split("\n").filter(Boolean).map((text) => text.replaceAll("\\n", "\n"));
  return stop.length ? { ...asked, stop } : asked;
}
