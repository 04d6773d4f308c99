// What is said of answers, as the endpoint takes it. The receipt, which the endpoint signed, says what answered.
// A choice and an edit change how the conversation goes on, whether they are kept or not.

import { messagesBefore } from "./store.js";

const given = ({ text, receipt }) => ({ text, receipt });

// What the buttons of an answer do. `page` is what they need of the page (app.js).
export function judging(page) {
  async function tell(turn, answer, kind, said) {
    if (!page.consents()) return;
    // A choice is the first endpoint's to keep, all else that of the endpoint that answered.
    const to = page.endpoint(kind === "choice" ? page.own : answer.base);
    const messages = messagesBefore(page.conversation(), turn);
    try {
      await to.say({ kind, model: answer.model, messages, sampling: turn.sampling, consent: true, ...said });
      answer.kept = true;
      answer.said = "Kept. Thank you.";
    } catch (error) {
      answer.said = `Not kept: ${error.message}`;
      if (kind === "thumb") answer.thumb = null;
      if (error.status === 401) page.refuseKey(error);
    }
    page.keep();
    page.redraw(turn);
  }

  function thumb(turn, answer, way) {
    answer.thumb = way;
    page.redraw(turn);
    tell(turn, answer, "thumb", { answer: given(answer), thumb: way });
  }

  function choose(turn, number) {
    Object.assign(turn, { picked: number, chosen: true });
    page.keep();
    page.redraw(turn);
    const [chosen, rejected] = [turn.answers[number], turn.answers[1 - number]];
    if (chosen.text !== rejected.text) tell(turn, chosen, "choice", { chosen: given(chosen), rejected: given(rejected) });
  }

  function edit(turn, answer) {
    answer.editing = true;
    page.redraw(turn);
  }

  // `text`: what the answer should be; null leaves it.
  function save(turn, answer, text) {
    answer.editing = false;
    const changed = text !== null && text.trim() && text !== answer.text;
    if (changed) {
      answer.edited = text;
      turn.picked = turn.answers.indexOf(answer);
    }
    page.keep();
    page.redraw(turn);
    if (!changed) return;
    tell(turn, answer, "edit", { answer: given(answer), edit: text });
    page.score(turn, answer, messagesBefore(page.conversation(), turn));
  }

  async function takeBack(turn, answer) {
    try {
      const withdrawn = { receipt: answer.receipt };
      await page.endpoint(answer.base).say({ kind: "withdrawal", model: answer.model, answer: withdrawn });
      Object.assign(answer, { kept: false, thumb: null, said: "Taken back." });
      if (turn.answers[turn.picked] === answer) turn.chosen = false;
    } catch (error) {
      answer.said = `Not taken back: ${error.message}`;
    }
    page.keep();
    page.redraw(turn);
  }

  return { thumb, choose, edit, save, takeBack };
}
