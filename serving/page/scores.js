// The reward model that scores answers: who that is, and what it says of one.

import { others } from "./api.js";
import { byId } from "./dom.js";
import { final } from "./store.js";

// What scores the answers of the page (app.js).
export function scoring(page) {
  let scorer = null; // its name and base

  // Look for what has the name: one of the endpoint's own models, or another endpoint behind the same port.
  async function find(name, models) {
    let base = null;
    if (models.some(({ id }) => id === name)) base = page.own;
    else if (name) base = (await others(page.own)).find((each) => each.name === name)?.base;
    scorer = base ? { name, base } : null;
    byId("scores-row").hidden = !scorer;
    byId("scorer").textContent = name;
  }

  // Score an answer to `messages` as it stands: what somebody has made of it, else what was written.
  async function score(turn, answer, messages) {
    const text = final(answer);
    if (!scorer || !page.scores() || !text.trim()) return;
    const cut = text === answer.text && (answer.reason === "length" || answer.status === "stopped");
    let found;
    try {
      const { score: reward, artifact } = await page.endpoint(scorer.base).score(scorer.name, messages, text, cut);
      found = { reward, scorer: artifact, unscored: "" };
    } catch (error) {
      found = { reward: null, scorer: "", unscored: error.message };
    }
    if (final(answer) !== text) return; // it has been edited meanwhile
    Object.assign(answer, found);
    page.keep();
    page.redraw(turn);
  }

  return { find, score };
}

// Whether an answer has a higher score than the others of its turn.
export function isBest(answer, answers) {
  const others = answers.filter((each) => each !== answer && typeof each.reward === "number");
  return others.length > 0 && others.every((each) => answer.reward > each.reward);
}
