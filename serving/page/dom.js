// Elements, made by name; texts go in as texts only.

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  up: "M7 11v9H4v-9zm3 9h7.5a2 2 0 0 0 2-1.6l1.3-6A2 2 0 0 0 18.900 10H14l.8-4.200A2 2 0 0 0 11.200 4.300L9 10v9z",
  down: "M7 13V4H4v9zm3-9h7.500a2 2 0 0 1 2 1.600l1.300 6a2 2 0 0 1-1.900 2.400H14l.8 4.200a2 2 0 0 1-3.600 1.500L9 14V5z",
  list: "M4 6h16M4 12h16M4 18h10",
  settings: "M4 7h9m5 0h2M4 17h2m5 0h9M15.500 4.500v5M8.500 14.500v5",
  remove: "M6 6l12 12M18 6L6 18",
};

// An element: `names` are properties, `on...` listeners, what has a dash an attribute; then what is in it.
export function element(tag, names = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(names)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...inside.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return made;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

export function button(text, onclick, names = {}) {
  return element("button", { type: "button", onclick, ...names }, text);
}

export const byId = (id) => document.getElementById(id);
