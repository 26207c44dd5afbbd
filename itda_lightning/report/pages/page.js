// Draws the list of atoms, one atom at a time, and texts to read, from the data embedded in the page.
"use strict";

(async () => {
  const { make, byId, whole, short, share, marked, quiet, ending, heading, histogram, examples, unpack } = drawing;
  const data = JSON.parse(await unpack("data"));
  const atoms = data.atoms;
  const labels = new Map(atoms.map((atom) => [atom.atom, atom.prompt]));

  // ---- the list

  const largest = atoms.map((atom) => (atom.top.length ? Math.abs(atom.top[0][0]) : 0));
  const tokens = atoms.map((atom) => (atom.prompt === null ? "" : atom.prompt[1].trim()));
  const list = atomList({
    numbers: atoms.map((atom) => atom.atom),
    prompts: atoms.map((atom) => atom.prompt),
    orders: {
      density: (a, b) => atoms[b].count - atoms[a].count || a - b,
      rare: (a, b) => atoms[a].count - atoms[b].count || a - b,
      coefficient: (a, b) => largest[b] - largest[a] || a - b,
      detected: (a, b) => (atoms[b].detected[0]?.[0] ?? -1) - (atoms[a].detected[0]?.[0] ?? -1) || a - b,
      token: (a, b) => tokens[a].localeCompare(tokens[b]) || a - b,
      atom: (a, b) => a - b,
    },
    perPage: 40,
    ends: matchMedia("(max-width: 30rem)").matches ? [12, 12] : [24, 24],
    cells: (place, prompt) => [make("td", {}, prompt), make("td", { class: "number" }, share(atoms[place].density))],
    byNumber: true,
  });
  const texts = data.reading.length ? reading({ rows: data.reading, labels }) : null;
  const marks = atomMarks({
    key: `itda-lightning ${data.title} ${atoms.length}`,
    numbers: atoms.map((atom) => atom.atom),
    columns: ["atom", "before", "token", "after", "share of tokens"],
    row: (number) => [number, ...(labels.get(number) ?? ["", "", ""]), atoms[list.place(number)].density],
  });

  // ---- one atom

  const withContexts = (found) => examples(found.map(([value, context]) => [value, data.contexts[context]]));

  function show(place) {
    const atom = atoms[place];
    list.mark(place);
    const article = document.querySelector("article.atom");
    article.id = `atom-${atom.atom}`;
    article.replaceChildren(
      make("div", { class: "title-line" },
        make("h3", { id: "shown-title", tabindex: "-1" }, `Atom ${whole(atom.atom)}`), ...inTexts(atom), marks.button(atom.atom)),
      marked(atom.prompt),
      make("dl", { class: "strip" }, ...facts(atom).map(([name, value]) =>
        make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
      ...(atom.detected.length ? [heading("Detected", "tokens most like the atom (cosine), used or not"), withContexts(atom.detected)] : []),
      ...meaning(atom),
      ...(atom.count ? uses(atom) : []),
    );
    return article;
  }

  function inTexts(atom) {
    if (texts === null) return [];
    const button = make("button", { type: "button", class: "in-texts" }, "Show in the texts");
    button.addEventListener("click", () => {
      if (texts.show(atom.atom)) return;
      button.disabled = true;
      button.textContent = "In none of the texts";
    });
    return [button];
  }

  function meaning(atom) {
    const list = (tokens) => make("ul", { class: "tokens" }, ...tokens.map((token) => make("li", {}, ...quiet(token))));
    const part = (title, detail, tokens) => (tokens.length ? [make("div", {}, heading(title, detail), list(tokens))] : []);
    const effects = [
      ...part("Promotes", "as the next token", atom.promoted), ...part("Suppresses", "", atom.suppressed)];
    const near = atom.nearest.map(([other, cosine]) => make("tr", {},
      make("td", { class: "number" }, cosine.toFixed(2)),
      make("td", {}, make("a", { href: `#atom-${other}` }, String(other)), " ", marked(shortened(labels.get(other))))));
    return [
      ...part("Sites", "share of the atom’s energy at each", atom.sites),
      ...(effects.length ? [make("div", { class: "effects" }, ...effects)] : []),
      ...(near.length ? [heading("Nearest atoms", "cosine"), make("table", { class: "nearest" }, make("tbody", {}, ...near))] : []),
    ];
  }

  const shortened = (prompt) => prompt && [ending(prompt[0], 40), prompt[1], prompt[2].slice(0, 20)];

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

  // Uses of both signs stand apart: they are of opposite kinds of tokens.
  function uses(atom) {
    const room = document.querySelector("article.atom").clientWidth;
    const parts = [heading("Coefficients", `of ${whole(atom.count)} tokens`), histogram(atom.histogram, room)];
    const positive = useOfOneSign(atom, (value) => value >= 0, "Largest coefficients");
    const negative = useOfOneSign(atom, (value) => value < 0, "Most negative coefficients");
    if (!negative.length) return [...parts, ...positive];
    const note = make("p", { class: "note" }, "These activations point away from the atom: the code takes it away from them. "
      + "Its label does not describe them.");
    return [
      ...parts,
      ...(positive.length ? [make("p", { class: "sign" }, "Positive coefficients"), ...positive] : []),
      make("p", { class: "sign" }, "Negative coefficients"), note, ...negative,
    ];
  }

  function useOfOneSign(atom, has, title) {
    const top = atom.top.filter(([value]) => has(value));
    const parts = top.length ? [heading(title, ""), withContexts(top)] : [];
    for (const range of atom.ranges.filter(({ low, high }) => has((low + high) / 2))) {
      const tokens = range.count === 1 ? "1 token" : `${whole(range.count)} tokens`;
      parts.push(heading(`From ${short(range.low)} to ${short(range.high)}`, `${tokens}, ${share(range.count / atom.count)}`));
      parts.push(range.examples.length
        ? withContexts(range.examples)
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
  // The milliseconds from the start of the navigation until everything is drawn.
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})().catch((error) => {
  document.getElementById("failed").textContent = `The list of atoms cannot be drawn by this browser (${error.message}): use one of 2023 or newer.`;
});
