// A conversation on the page. Each turn is drawn anew when it changes; an answer that is being written, once a frame.

import { button, byId, element, icon } from "./dom.js";
import { markdown } from "./markdown.js";
import { drawn } from "./plugins.js";
import { isBest } from "./scores.js";
import { final } from "./store.js";

// What can be done with an answer: `actions` are the page's (app.js).
export class View {
  constructor(actions) {
    this.actions = actions;
    this.place = byId("talk");
    this.drawn = new Map(); // of each turn its element
    this.bodies = new Map(); // of each answer the element with its text, and that with its figures
    this.due = new Set();
  }

  draw(conversation, can) {
    this.can = can;
    this.drawn.clear();
    this.bodies.clear();
    this.conversation = conversation;
    this.place.replaceChildren(...conversation.turns.map((turn) => this.#turn(turn)));
    if (!conversation.turns.length) {
      this.place.append(element("p", { className: "empty quiet" }, `Ask ${can.name || "the model"} something.`));
    }
    this.place.scrollTop = this.place.scrollHeight;
  }

  redraw(turn, can = this.can) {
    this.can = can;
    const old = this.drawn.get(turn);
    if (!old) return; // of a conversation that is not shown
    const follows = this.#atEnd();
    old.replaceWith(this.#turn(turn));
    if (follows) this.place.scrollTop = this.place.scrollHeight;
  }

  // The text of an answer has grown.
  grow(answer) {
    if (!this.due.size) requestAnimationFrame(() => this.#paint());
    this.due.add(answer);
  }

  #paint() {
    const follows = this.#atEnd();
    for (const answer of this.due) {
      this.bodies.get(answer)?.body.replaceChildren(...markdown(final(answer)));
      this.bodies.get(answer)?.figures.replaceChildren(figures(answer));
    }
    this.due.clear();
    if (follows) this.place.scrollTop = this.place.scrollHeight;
  }

  #atEnd() {
    return this.place.scrollHeight - this.place.scrollTop - this.place.clientHeight < 80;
  }

  #turn(turn) {
    const last = this.conversation.turns.at(-1) === turn;
    const both = turn.answers.length > 1;
    const asked = element("div", { className: "asked" }, element("h2", { className: "hidden" }, "You"), element("p", {}, turn.asked));
    const answers = turn.answers.map((answer, number) => this.#answer(turn, answer, number, last, both));
    const made = element("section", { className: "turn" }, asked, element("div", { className: both ? "answers two" : "answers" }, answers));
    this.drawn.set(turn, made);
    return made;
  }

  #answer(turn, answer, number, last, both) {
    const done = answer.status !== "writing";
    const body = element("div", { className: "body" }, markdown(final(answer)));
    const told = element("span", { className: "quiet small figures" }, figures(answer));
    this.bodies.set(answer, { body, figures: told });
    const head = element("h2", { className: "from" }, element("span", {}, answer.name), element("span", { className: "quiet small" }, answer.artifact), reward(answer, turn.answers));
    const picked = both && done && turn.picked === number && turn.chosen;
    const made = element(
      "article",
      { className: picked ? "answer picked" : "answer", "aria-busy": String(!done) },
      head,
      drawn(answer),
      answer.editing ? this.#editor(turn, answer) : body,
      !done && !answer.text ? element("p", { className: "waiting", "aria-label": "waiting" }, element("i"), element("i"), element("i")) : null,
      answer.error ? element("p", { className: "error", role: "alert" }, answer.error) : null,
      element("footer", {}, told, done ? this.#buttons(turn, answer, number, last, both, picked) : null),
      answer.said || answer.kept
        ? element(
          "div",
          { className: "told" },
          element("p", { className: "said quiet small", role: "status" }, answer.said ?? ""),
          answer.kept ? button("Take back", () => this.actions.takeBack(turn, answer), { className: "back" }) : null,
        )
        : null,
    );
    return made;
  }

  #buttons(turn, answer, number, last, both, picked) {
    const { actions, can } = this;
    const whole = answer.text.trim() && !answer.editing;
    const says = can.feedback && answer.receipt && whole;
    const thumb = (way, label) =>
      element("button", {
        type: "button", className: "icon", disabled: !can.consent, "aria-label": label, "aria-pressed": String(answer.thumb === way),
        title: can.consent ? label : "Agree below that what you say may be kept", onclick: () => actions.thumb(turn, answer, way),
      }, icon(way));
    return element(
      "span",
      { className: "buttons" },
      says ? [thumb("up", "Good answer"), thumb("down", "Bad answer")] : null,
      both && last && whole && turn.answers.every((each) => each.text.trim() && each.status !== "writing")
        ? button(picked ? "Chosen" : "This one is better", () => actions.choose(turn, number), { className: "choose", "aria-pressed": String(Boolean(picked)) })
        : null,
      last && whole ? button("Edit", () => actions.edit(turn, answer)) : null,
      whole && navigator.clipboard ? button("Copy", () => navigator.clipboard.writeText(final(answer))) : null,
      last && !both && !answer.editing ? button("Answer again", () => actions.again(turn)) : null,
    );
  }

  #editor(turn, answer) {
    const text = element("textarea", { className: "editor", value: final(answer), rows: 8, "aria-label": "What the answer should be" });
    const save = button("Save", () => this.actions.save(turn, answer, text.value), { className: "main" });
    const cancel = button("Cancel", () => this.actions.save(turn, answer, null));
    queueMicrotask(() => text.focus());
    return element("div", {}, text, element("p", { className: "row" }, save, cancel));
  }
}

// The score of an answer; the higher one of two stands out.
function reward(answer, answers) {
  if (typeof answer.reward !== "number") return null;
  const className = isBest(answer, answers) ? "reward best" : "reward";
  return element("span", { className, title: `Scored by ${answer.scorer}` }, `reward ${answer.reward.toFixed(2)}`);
}

function figures({ tokens, first_ms, total_ms, status, reason, edited, plugins, unscored }) {
  const parts = [];
  if (tokens) parts.push(`${tokens} tokens`);
  if (first_ms) parts.push(`first after ${(first_ms / 1000).toFixed(2)} s`);
  if (tokens > 1 && total_ms > first_ms && !plugins?.length) parts.push(`${(((tokens - 1) * 1000) / (total_ms - first_ms)).toFixed(0)} a second`);
  if (reason === "length") parts.push("cut at its length");
  if (status === "stopped") parts.push("stopped");
  if (edited !== undefined && edited !== null) parts.push("edited");
  if (unscored) parts.push(`not scored: ${unscored}`);
  return parts.join(" · ");
}

// The conversations of this browser, the newest first.
export function drawList(all, current, open, remove) {
  byId("list").replaceChildren(
    ...all.filter((each) => each.turns.length).map((each) =>
      element(
        "li",
        { className: each.id === current.id ? "current" : "" },
        button(each.title || "New conversation", () => open(each), { className: "title", "aria-current": String(each.id === current.id) }),
        element("button", { type: "button", className: "icon", "aria-label": `Remove “${each.title}”`, onclick: () => remove(each) }, icon("remove")),
      ),
    ),
  );
}
