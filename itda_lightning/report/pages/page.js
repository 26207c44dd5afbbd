// Draws the list of atoms and one atom at a time, from the data embedded in the page.
"use strict";

(() => {
  const { make, byId, whole, short, share, marked, heading, histogram, examples } = drawing;
  const data = JSON.parse(byId("data").textContent);
  const atoms = data.atoms;

  // ---- the list

  const largest = atoms.map((atom) => (atom.top.length ? Math.abs(atom.top[0][0]) : 0));
  const tokens = atoms.map((atom) => (atom.prompt === null ? "" : atom.prompt[1].trim()));
  const list = atomList({
    numbers: atoms.map((atom) => atom.atom),
    prompts: atoms.map((atom) => atom.prompt),
    orders: {
      atom: (a, b) => a - b,
      density: (a, b) => atoms[b].count - atoms[a].count || a - b,
      rare: (a, b) => atoms[a].count - atoms[b].count || a - b,
      coefficient: (a, b) => largest[b] - largest[a] || a - b,
      token: (a, b) => tokens[a].localeCompare(tokens[b]) || a - b,
    },
    perPage: 40,
    ends: [24, 24],
    cells: (place, prompt) => [make("td", {}, prompt), make("td", { class: "number" }, share(atoms[place].density))],
    byNumber: true,
  });

  // ---- one atom

  function show(place) {
    const atom = atoms[place];
    list.mark(place);
    const article = document.querySelector("article.atom");
    article.id = `atom-${atom.atom}`;
    article.replaceChildren(
      make("h3", { id: "shown-title", tabindex: "-1" }, `Atom ${whole(atom.atom)}`),
      marked(atom.prompt),
      make("dl", { class: "strip" }, ...facts(atom).map(([name, value]) =>
        make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
      ...(atom.detected.length ? [heading("Detected", "largest cosines, used or not"), examples(atom.detected)] : []),
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
    const near = atom.cosine === null ? [] : [["cosine with the marked token’s activation",
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

  // ---- the atom that the address names

  function follow(place) {
    const fromList = byId("rows").contains(document.activeElement);
    const article = show(place);
    // The page does not scroll if the atom stands beside the list that was clicked.
    const beside = matchMedia("(min-width: 56.01rem)").matches;
    if (fromList && beside && article.getBoundingClientRect().top >= 0) return;
    article.scrollIntoView();
    byId("shown-title").focus({ preventScroll: true });
  }

  list.start(show, follow);
})();
