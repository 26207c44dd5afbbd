// Draws the list of atoms and one atom at a time, from the data embedded in the page.
"use strict";

(() => {
  const PER_PAGE = 40;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const atoms = data.atoms;
  const { make, whole, short, share, marked, ending, heading, histogram, examples } = drawing;

  // ---- the list

  const texts = atoms.map((atom) => (atom.prompt === null ? "" : atom.prompt.join("").toLowerCase()));
  const largest = (atom) => (atom.top.length ? Math.abs(atom.top[0][0]) : 0);
  const token = (atom) => (atom.prompt === null ? "" : atom.prompt[1].trim());
  const orders = {
    atom: (a, b) => a.atom - b.atom,
    density: (a, b) => b.count - a.count || a.atom - b.atom,
    rare: (a, b) => a.count - b.count || a.atom - b.atom,
    coefficient: (a, b) => largest(b) - largest(a) || a.atom - b.atom,
    token: (a, b) => token(a).localeCompare(token(b)) || a.atom - b.atom,
  };
  let found = atoms;
  let page = 0;
  let shown = null;

  function search() {
    const query = byId("find").value.trim().toLowerCase();
    const matches = (atom) => String(atom.atom) === query || texts[atom.atom].includes(query);
    found = (query === "" ? atoms.slice() : atoms.filter(matches)).sort(orders[byId("order").value]);
    page = 0;
    list();
  }

  function list() {
    const first = page * PER_PAGE;
    const last = Math.min(first + PER_PAGE, found.length);
    byId("rows").replaceChildren(...found.slice(first, last).map(row));
    byId("found").textContent = found.length
      ? `${whole(first + 1)}–${whole(last)} of ${whole(found.length)} atoms`
      : "No prompt contains this text";
    byId("previous").disabled = page === 0;
    byId("next").disabled = last === found.length;
  }

  function row(atom) {
    const current = atom.atom === shown ? { "aria-current": "true" } : {};
    // The end of the context distinguishes atoms best if room is short.
    const prompt = atom.prompt && [ending(atom.prompt[0], 24), atom.prompt[1], atom.prompt[2].slice(0, 24)];
    return make(
      "tr",
      { "data-atom": atom.atom, ...current },
      make("td", {}, make("a", { href: `#atom-${atom.atom}`, class: "number" }, String(atom.atom))),
      make("td", {}, marked(prompt)),
      make("td", { class: "number" }, share(atom.density)),
    );
  }

  // ---- one atom

  function show(index) {
    const atom = atoms[index];
    shown = index;
    for (const line of byId("rows").children) {
      if (Number(line.dataset.atom) === index) line.setAttribute("aria-current", "true");
      else line.removeAttribute("aria-current");
    }
    const article = document.querySelector("article.atom");
    article.id = `atom-${index}`;
    article.replaceChildren(
      make("h3", { id: "shown-title", tabindex: "-1" }, `Atom ${whole(index)}`),
      marked(atom.prompt),
      make("dl", { class: "strip" }, ...facts(atom).map(([name, value]) =>
        make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
      ...(atom.count ? use(atom) : []),
    );
    return article;
  }

  function facts(atom) {
    const used = make("data", { value: String(atom.count) },
      atom.count ? `${whole(atom.count)} tokens, ${share(atom.density)}` : `none of ${whole(data.tokens)} tokens`);
    const source = atom.source === null ? [] : data.columns.map((name, i) => [name, atom.source[i]]);
    const columns = Object.fromEntries(source);
    const places = atom.source === null ? [] : [
      ["document", String(columns.document)],
      ["row, position", `${columns.row}, ${columns.position}`],
      ["token id", String(columns.token)],
      ["characters", `${columns.start}–${columns.end}`],
    ];
    // Cut off and not rounded, as in wording.py: no cosine looks larger than it is.
    const near = atom.cosine === null ? [] : [["cosine with its source",
      make("data", { class: "cosine", value: String(atom.cosine) }, (Math.floor(1000 * atom.cosine + 1e-6) / 1000).toFixed(3))]];
    return [["used by", used], ...near, ...places];
  }

  function use(atom) {
    const room = document.querySelector("article.atom").clientWidth;
    const parts = [heading("Coefficients", `of ${whole(atom.count)} tokens`), histogram(atom.histogram, room)];
    if (atom.top.length) parts.push(heading("Largest coefficients", ""), examples(atom.top));
    for (const range of atom.ranges) {
      const tokens = range.count === 1 ? "1 token" : `${whole(range.count)} tokens`;
      parts.push(heading(`From ${short(range.low)} to ${short(range.high)}`, `${tokens}, ${share(range.count / atom.count)}`));
      parts.push(range.examples.length
        ? examples(range.examples)
        : make("p", { class: "note" }, "All of these are among the largest above."));
    }
    return parts;
  }

  // ---- events

  function follow() {
    const match = /^#atom-(\d+)$/.exec(location.hash);
    if (match === null || !(Number(match[1]) in atoms)) return;
    const fromList = byId("rows").contains(document.activeElement);
    const article = show(Number(match[1]));
    // The page does not scroll if the atom stands beside the list that was clicked.
    const beside = matchMedia("(min-width: 56.01rem)").matches;
    if (fromList && beside && article.getBoundingClientRect().top >= 0) return;
    article.scrollIntoView();
    byId("shown-title").focus({ preventScroll: true });
  }

  byId("find").addEventListener("input", search);
  byId("order").addEventListener("change", search);
  byId("previous").addEventListener("click", () => { page -= 1; list(); });
  byId("next").addEventListener("click", () => { page += 1; list(); });
  addEventListener("hashchange", follow);

  byId("browser").hidden = false;
  search();
  if (atoms.length) show(0);
  follow();
})();
