// The list of a page's atoms: found by text, put in order, drawn some at a time. Atoms go by their places, from 0.
"use strict";

// numbers and prompts are by place, prompts null if unknown; orders: name -> comparison of two places.
// ends: characters kept of a prompt before and after its token; cells(place, prompt): a row's cells after the number.
// byNumber: a search for a number finds its atom too; changed: called when what is listed or shown has changed.
const atomList = ({ numbers, prompts, orders, perPage, ends, cells, byNumber = false, changed = () => {} }) => {
  const { make, byId, whole, marked, ending } = drawing;
  const places = new Map(numbers.map((number, place) => [number, place]));
  const texts = prompts.map((prompt) => (prompt === null ? "" : prompt.join("").toLowerCase()));
  let found = [];
  let page = 0;
  let shown = 0;

  function search() {
    const query = byId("find").value.trim().toLowerCase();
    const matches = (place) => texts[place].includes(query) || (byNumber && String(numbers[place]) === query);
    found = [...numbers.keys()].filter(matches).sort(orders[byId("order").value]);
    draw(0);
  }

  function draw(at) {
    page = at;
    const first = page * perPage;
    const last = Math.min(first + perPage, found.length);
    byId("rows").replaceChildren(...found.slice(first, last).map(row));
    byId("found").textContent = found.length
      ? `${whole(first + 1)}–${whole(last)} of ${whole(found.length)} atoms`
      : "No prompt contains this text";
    byId("previous").disabled = page === 0;
    byId("next").disabled = last === found.length;
    mark(shown);
  }

  function row(place) {
    const prompt = prompts[place];
    // The end of the context distinguishes atoms best if room is short.
    const short = prompt && [ending(prompt[0], ends[0]), prompt[1], prompt[2].slice(0, ends[1])];
    return make("tr", { "data-atom": numbers[place] },
      make("td", {}, make("a", { href: `#atom-${numbers[place]}`, class: "number" }, String(numbers[place]))),
      ...cells(place, marked(short)));
  }

  // Marks the atom that the page shows, if it is among the rows drawn.
  function mark(place) {
    shown = place;
    for (const line of byId("rows").children) {
      if (line.dataset.atom === String(numbers[place])) line.setAttribute("aria-current", "true");
      else line.removeAttribute("aria-current");
    }
    changed();
  }

  // Shows the first atom, then each that the address names; chosen: called with what a search finds first, if anything.
  function start(show, follow, chosen = () => {}) {
    const searched = () => { search(); if (found.length) chosen(found[0]); };
    const addressed = () => {
      const match = /^#atom-(\d+)$/.exec(location.hash);
      const place = match === null ? undefined : places.get(Number(match[1]));
      if (place !== undefined) follow(place);
    };
    byId("find").addEventListener("input", searched);
    byId("order").addEventListener("change", searched);
    byId("previous").addEventListener("click", () => draw(page - 1));
    byId("next").addEventListener("click", () => draw(page + 1));
    addEventListener("hashchange", addressed);
    byId("browser").hidden = false;
    search();
    if (numbers.length) show(found[0]);
    addressed();
  }

  return {
    mark,
    start,
    place: (number) => places.get(number),
    turnTo: (place) => draw(Math.floor(found.indexOf(place) / perPage)),
    // The places found, in order, and where among them the atom shown is (-1: nowhere).
    found: () => found,
    at: () => found.indexOf(shown),
  };
};
