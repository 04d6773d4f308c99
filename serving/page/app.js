// The page: what is chosen and typed, asked of one endpoint or two, drawn and kept.

import { baseOf, Endpoint, others, Refusal } from "./api.js";
import { byId, element, icon } from "./dom.js";
import { judging } from "./feedback.js";
import { closePanels, NARROW } from "./panels.js";
import { note, offer } from "./plugins.js";
import { scoring } from "./scores.js";
import { conversations, key, messagesBefore, newConversation, sampling, settings } from "./store.js";
import { drawList, View } from "./view.js";

const own = new URL(".", location.href).href;
let given = settings.read();
let all = conversations.read();
let current = all[0] ?? newConversation();
let served = { endpoint: "", keys: false, feedback: false, plugins: [], scorer: "" };
let known = { models: [], artifact: "" };
let running = null; // what stops the answers that are being written

const page = {
  own, endpoint, keep, refuseKey,
  conversation: () => current,
  consents: () => served.feedback && given.consent,
  scores: () => given.scores,
  score: (turn, answer, messages) => scorer.score(turn, answer, messages),
  redraw: (turn) => view.redraw(turn),
};
const scorer = scoring(page);
const view = new View({ ...judging(page), again });
const can = () => ({ name: served.endpoint, feedback: served.feedback, consent: given.consent });

const endpoints = new Map();
function endpoint(base) {
  const found = endpoints.get(base) ?? new Endpoint(base, "");
  found.key = key.read();
  endpoints.set(base, found);
  return found;
}

async function begin() {
  for (const [id, name] of [["show-list", "list"], ["show-settings", "settings"]]) byId(id).append(icon(name));
  for (const each of all.flatMap((one) => one.turns).flatMap((turn) => turn.answers)) {
    if (each.status === "writing") each.status = "stopped"; // the page was closed
    each.editing = false;
  }
  fill();
  show();
  try {
    served = await endpoint(own).settings();
  } catch (error) {
    return notice(error.message);
  }
  document.title = served.endpoint;
  byId("name").textContent = served.endpoint;
  byId("consent-row").hidden = !served.feedback;
  offer(served.plugins, given.plugins, (plugins) => { given = { ...given, plugins }; settings.write(given); });
  show();
  await connect();
  const found = (await others(own)).filter(({ name }) => name !== served.scorer);
  byId("compare").querySelector("[value=url]").before(
    ...found.map(({ name, base }) => element("option", { value: base }, name)),
  );
  if (![...byId("compare").options].some(({ value }) => value === given.compare)) given.compare = ""; // it is gone
  fill();
}

// Ask what is served, which is also whether the key counts.
async function connect() {
  const needed = served.keys && !key.read();
  byId("key-form").hidden = !needed;
  byId("forget-key").hidden = !served.keys || needed;
  if (needed) return byId("key").focus();
  try {
    known = await endpoint(own).models();
  } catch (error) {
    if (error.status === 401 || error.status === 403) return refuseKey(error);
    return notice(error.message);
  }
  byId("artifact").textContent = known.artifact;
  const answering = known.models.filter(({ id }) => id !== served.scorer);
  byId("model").replaceChildren(...answering.map(({ id }) => element("option", { value: id }, id)));
  await scorer.find(served.scorer, known.models);
  fill();
}

function refuseKey(error) {
  key.write("");
  byId("key-form").hidden = false;
  byId("key-error").textContent = error.message;
  byId("key").focus();
}

function notice(message) {
  byId("talk").prepend(element("p", { className: "error", role: "alert" }, message));
}

// Settings: the form has what is kept.
function fill() {
  for (const [name, value] of Object.entries(given)) {
    const field = byId("settings").elements[name];
    if (field) field.value = value;
  }
  if (!byId("model").value && known.models.length) byId("model").value = known.models[0].id;
  if (!byId("compare").value) byId("compare").value = "";
  byId("consent").checked = given.consent;
  byId("scores").checked = given.scores;
  byId("url-row").hidden = byId("compare").value !== "url";
}

byId("settings").addEventListener("input", () => {
  const fields = Object.fromEntries(new FormData(byId("settings")));
  given = { ...given, ...fields };
  settings.write(given);
  byId("url-row").hidden = given.compare !== "url";
  const wrong = given.compare === "url" && given.url.trim() && !baseOf(given.url, own);
  byId("url-error").textContent = wrong ? `This page asks endpoints of ${location.host} only.` : "";
});
byId("settings").addEventListener("submit", (event) => event.preventDefault());
byId("scores").addEventListener("change", (event) => {
  given = { ...given, scores: event.target.checked };
  settings.write(given);
});
byId("consent").addEventListener("change", (event) => {
  given = { ...given, consent: event.target.checked };
  settings.write(given);
  show();
});

// Who answers beside the first: the base of an endpoint, or null.
function beside() {
  if (!given.compare) return null;
  if (given.compare === "again") return own;
  return given.compare === "url" ? baseOf(given.url, own) : given.compare;
}

function show() {
  view.draw(current, can());
  list();
}

function list() {
  drawList(all, current, (one) => { current = one; closePanels(); show(); }, (one) => {
    all = all.filter((each) => each !== one);
    if (one === current) current = newConversation();
    keep();
    show();
  });
}

function keep() {
  if (current.turns.length) all = [current, ...all.filter((each) => each !== current)];
  conversations.write(all);
}

// Asking.
byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const asked = byId("draft").value.trim();
  if (!asked || running) return;
  byId("draft").value = "";
  const plugins = given.plugins.filter((name) => served.plugins.includes(name));
  const turn = { asked, system: given.system, sampling: sampling(given), plugins, answers: [], picked: 0, chosen: false };
  current.title ||= asked.slice(0, 60);
  current.turns.push(turn);
  const bases = [own, beside()].filter(Boolean);
  ask(turn, bases);
});

function again(turn) {
  if (running) return;
  if (!turn.answers[0].text.trim()) turn.answers = [];
  ask(turn, [own]);
}

async function ask(turn, bases) {
  const conversation = current;
  running = new AbortController();
  busy(true);
  keep();
  const messages = messagesBefore(conversation, turn);
  const begun = bases.map((base) => {
    const answer = { base, name: "", artifact: "", receipt: "", text: "", status: "writing", thumb: null };
    turn.answers.push(answer);
    return answer;
  });
  view.draw(conversation, can());
  list();
  await Promise.all(begun.map((answer, number) => write(turn, answer, messages, number)));
  running = null;
  busy(false);
  keep();
  if (conversation === current) show();
  byId("draft").focus();
}

async function write(turn, answer, messages, number) {
  const started = performance.now();
  const asked = { ...turn.sampling };
  // Of two answers by one seed the second is another one.
  if (turn.plugins?.length && answer.base === own) asked.plugins = turn.plugins; // what others have is not known
  if (asked.seed !== undefined && turn.answers.indexOf(answer) > 0 && answer.base === own) asked.seed += 1;
  try {
    const from = endpoint(answer.base);
    const model = answer.base === own ? byId("model").value || known.models[0]?.id : (await from.models()).models[0]?.id;
    answer.name = answer.model = model ?? "";
    for await (const event of from.answer(model, messages, asked, running.signal)) {
      if (event.begun) {
        Object.assign(answer, event.begun);
        view.redraw(turn);
      }
      if (event.plugin) {
        note(answer, event.plugin);
        view.redraw(turn);
      }
      if (event.usage) answer.tokens = event.usage.completion_tokens;
      if (event.reason) answer.reason = event.reason;
      if (event.text) {
        if (!answer.text) {
          answer.first_ms = performance.now() - started;
          answer.text = event.text.trimStart();
          view.redraw(turn);
        } else answer.text += event.text;
        answer.total_ms = performance.now() - started;
        view.grow(answer);
      }
    }
    answer.status = "done";
    if (!answer.text) answer.error = "The answer is empty.";
  } catch (error) {
    answer.status = error.name === "AbortError" ? "stopped" : "failed";
    if (answer.status === "failed") answer.error = error instanceof Refusal ? error.message : `This page failed: ${error.message}`;
    if (error.status === 401) refuseKey(error);
  }
  keep();
  view.redraw(turn);
  if (answer.status !== "failed") scorer.score(turn, answer, messages); // nobody waits for it
}

function busy(is) {
  byId("send").hidden = is;
  byId("stop").hidden = !is;
}

byId("stop").addEventListener("click", () => running?.abort());
byId("draft").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !NARROW.matches) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (document.querySelector(".panel.open") && NARROW.matches) closePanels();
  else running?.abort();
});

// Keys.
byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("key-error").textContent = "";
  key.write(byId("key").value.trim());
  byId("key").value = "";
  await connect();
  if (key.read()) byId("draft").focus();
});
byId("forget-key").addEventListener("click", () => { key.write(""); connect(); });

byId("new").addEventListener("click", () => { current = newConversation(); closePanels(); show(); byId("draft").focus(); });
byId("clear").addEventListener("click", () => { all = []; current = newConversation(); keep(); show(); });

begin();
