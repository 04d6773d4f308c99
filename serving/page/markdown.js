// Markdown as models write it, into elements. Every text becomes a text node: nothing a model writes is ever parsed as
// HTML, no picture is loaded, and links lead to http and https only.

import { button, element } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const ROW = /^\s*\|?(.+?)\|?\s*$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const INLINE =
  /(`+)([^`]|[^`][^]*?[^`])\1(?!`)|\*\*(?=\S)([^]+?)\*\*|(?<![*\w])\*(?=\S)([^*]+?)\*|(?<!\w)_(?=\S)([^_]+?)_(?!\w)|~~(?=\S)([^]+?)~~|\[([^\]]+)\]\(([^\s()]+(?:\([^\s()]*\))?)\)|(https?:\/\/[^\s<>()]+[^\s<>().,;:!?'"])/;
const DEEPEST = 8;

export function markdown(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function blocks(lines, depth) {
  const made = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      const end = lines.findIndex((other, n) => n > at && other.trim().startsWith(fence[1]) && !other.trim().slice(fence[1].length).trim());
      const last = end < 0 ? lines.length : end; // an answer that is still being written
      made.push(code(lines.slice(at + 1, last).join("\n"), fence[2].trim()));
      at = last + 1;
    } else if (HEADING.test(line)) {
      const [, marks, words] = HEADING.exec(line);
      made.push(element(`h${Math.min(6, marks.length + 2)}`, {}, inline(words)));
      at += 1;
    } else if (RULE.test(line)) {
      made.push(element("hr"));
      at += 1;
    } else if (QUOTE.test(line) && depth < DEEPEST) {
      const from = at;
      while (at < lines.length && QUOTE.test(lines[at])) at += 1;
      made.push(element("blockquote", {}, blocks(lines.slice(from, at).map((each) => each.replace(QUOTE, "")), depth + 1)));
    } else if (ITEM.test(line) && depth < DEEPEST) {
      const from = at;
      at += 1;
      while (at < lines.length && (ITEM.test(lines[at]) || /^\s+\S/.test(lines[at]) || (!lines[at].trim() && /^\s+\S/.test(lines[at + 1] ?? "")))) at += 1;
      made.push(list(lines.slice(from, at), depth));
    } else if (line.includes("|") && DIVIDER.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) {
      const from = at;
      at += 2;
      while (at < lines.length && lines[at].includes("|") && lines[at].trim()) at += 1;
      made.push(table(lines.slice(from, at)));
    } else {
      const from = at;
      at += 1;
      while (at < lines.length && lines[at].trim() && ![FENCE, HEADING, RULE, QUOTE, ITEM].some((kind) => kind.test(lines[at]))) at += 1;
      made.push(element("p", {}, inline(lines.slice(from, at).join("\n"))));
    }
  }
  return made;
}

function code(text, language) {
  const copy = button("Copy", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
  });
  copy.hidden = !navigator.clipboard; // over plain http there is none, but on this machine
  const head = element("figcaption", {}, element("span", {}, language.slice(0, 30)), copy);
  return element("figure", { className: "code" }, head, element("pre", { tabIndex: 0 }, element("code", {}, text)));
}

function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(mark);
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length) items.push([item[3]]);
    else items.at(-1).push(line.replace(new RegExp(`^\\s{0,${indent.length + mark.length + 1}}`), ""));
  }
  const made = element(ordered ? "ol" : "ul", {}, items.map((item) => element("li", {}, tight(blocks(item, depth + 1)))));
  if (ordered) made.start = parseInt(mark, 10);
  return made;
}

// An item of one paragraph is that paragraph's text.
function tight(made) {
  return made.flatMap((each, n) => (n === 0 && each.tagName === "P" ? [...each.childNodes] : [each]));
}

function table(lines) {
  const cells = (line) => ROW.exec(line)[1].split(/(?<!\\)\|/).map((cell) => inline(cell.trim().replaceAll("\\|", "|")));
  const [head, , ...rows] = lines;
  const headings = cells(head).map((cell) => element("th", { scope: "col" }, cell));
  const body = rows.map((row) => element("tr", {}, cells(row).map((cell) => element("td", {}, cell))));
  const made = element("table", {}, element("thead", {}, element("tr", {}, headings)), element("tbody", {}, body));
  return element("div", { className: "scroll", tabIndex: 0 }, made);
}

function inline(text) {
  const made = [];
  let rest = text;
  for (let found = INLINE.exec(rest); found; found = INLINE.exec(rest)) {
    made.push(rest.slice(0, found.index));
    const [whole, , coded, strong, soft, under, struck, label, address, bare] = found;
    if (coded !== undefined) made.push(element("code", {}, coded));
    else if (strong !== undefined) made.push(element("strong", {}, inline(strong)));
    else if (soft ?? under) made.push(element("em", {}, inline(soft ?? under)));
    else if (struck !== undefined) made.push(element("s", {}, inline(struck)));
    else made.push(link(label ?? bare, address ?? bare) ?? whole);
    rest = rest.slice(found.index + whole.length);
  }
  made.push(rest);
  return made.filter((each) => each !== "");
}

function link(label, address) {
  if (!/^https?:\/\//i.test(address) || !URL.canParse(address)) return null;
  return element("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, label);
}
