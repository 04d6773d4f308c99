// The panels beside the conversation: open where there is room, over it on a narrow screen.

import { byId } from "./dom.js";

export const NARROW = matchMedia("(max-width: 60rem)");
const PANELS = [["show-list", "list-panel"], ["show-settings", "settings-panel"]];

function set(opener, panel, open) {
  byId(panel).classList.toggle("open", open);
  byId(opener).setAttribute("aria-expanded", String(open));
}

// On a narrow screen, close all but one.
export function closePanels(but = "") {
  if (!NARROW.matches) return;
  for (const [opener, panel] of PANELS) if (panel !== but) set(opener, panel, false);
}

for (const [opener, panel] of PANELS) {
  set(opener, panel, !NARROW.matches);
  byId(opener).addEventListener("click", () => {
    const open = !byId(panel).classList.contains("open");
    set(opener, panel, open);
    if (open) closePanels(panel);
  });
}
