// Plug-ins: which of them are switched on, and what was told of their calls.

import { byId, element } from "./dom.js";

const STATES = { running: "runs …", done: "", failed: "failed" };

// The boxes of what the endpoint has; `change` is given the names that are ticked.
export function offer(names, ticked, change) {
  const chosen = new Set(ticked.filter((name) => names.includes(name)));
  byId("plugins-row").hidden = !names.length;
  byId("plugins").replaceChildren(
    ...names.map((name) =>
      element("label", { className: "check" }, element("input", {
        type: "checkbox", value: name, checked: chosen.has(name),
        onchange: (event) => {
          if (event.target.checked) chosen.add(name);
          else chosen.delete(name);
          change(names.filter((each) => chosen.has(each)));
        },
      }), element("span", {}, name)),
    ),
  );
}

// Take what an event tells of a call.
export function note(answer, told) {
  answer.plugins ??= [];
  const at = answer.plugins.findLastIndex(({ id, state }) => id === told.id && state === "running");
  if (at < 0) answer.plugins.push(told);
  else answer.plugins[at] = told;
}

// The calls of an answer, each to be opened for what came of it.
export function drawn(answer) {
  return (answer.plugins ?? []).map((told) =>
    element(
      "details",
      { className: `plugin ${told.state}`, open: Boolean(told.image) },
      element("summary", {}, element("b", {}, told.name), element("code", {}, inShort(told.arguments)), element("span", { className: "quiet small" }, state(told))),
      told.result ? element("pre", {}, told.result) : null,
      picture(told),
    ),
  );
}

// Of arguments, `{"expression": "3*4"}`, what is asked.
function inShort(text) {
  try {
    const values = Object.values(JSON.parse(text));
    return values.length === 1 ? String(values[0]) : text;
  } catch {
    return text;
  }
}

function state({ state, seconds }) {
  return [STATES[state] ?? "", seconds != null ? `${seconds.toFixed(2)} s` : ""].filter(Boolean).join(" · ");
}

function picture({ image, arguments: asked }) {
  if (image?.b64_json) return element("img", { src: `data:image/png;base64,${image.b64_json}`, alt: inShort(asked) });
  if (!image?.url || !/^https?:\/\//.test(image.url)) return null;
  return element("a", { href: image.url, target: "_blank", rel: "noopener noreferrer" }, "The picture");
}
