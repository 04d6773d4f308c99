// What is said of answers, as the endpoint takes it. The receipt, which the endpoint signed, says what answered.

const given = ({ text, receipt }) => ({ text, receipt });

// `said` has one of: `answer` and `thumb`; `answer` and `edit`; `chosen` and `rejected`.
export async function say(endpoint, { model, turn, messages, answer, thumb, edit, chosen, rejected }) {
  const about = { model, messages, sampling: turn.sampling, consent: true };
  if (thumb) await endpoint.say({ kind: "thumb", ...about, answer: given(answer), thumb });
  else if (edit) await endpoint.say({ kind: "edit", ...about, answer: given(answer), edit });
  else await endpoint.say({ kind: "choice", ...about, chosen: given(chosen), rejected: given(rejected) });
}

export async function withdraw(endpoint, answer) {
  await endpoint.say({ kind: "withdrawal", model: answer.model, answer: { receipt: answer.receipt } });
}
