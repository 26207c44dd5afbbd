// Links entries across plots, and draws atoms beside their nearest latents from the data in the page.
"use strict";

(async () => {
  const { make, byId, whole, share, marked, quiet, heading, histogram, examples, unpack } = drawing;
  const all = (selector) => [...document.querySelectorAll(selector)];

  // ---- one entry in all plots

  function light(number) {
    for (const element of all(".lit")) element.classList.remove("lit");
    if (number !== undefined) for (const element of all(`[data-row="${number}"]`)) element.classList.add("lit");
  }

  document.addEventListener("mouseover", (event) => light(event.target.closest("[data-row]")?.dataset.row));

  for (const box of all(".choices input")) {
    const draw = () => {
      const line = document.querySelector(`[data-plot="densities"] .line[data-row="${box.value}"]`);
      if (line) line.classList.toggle("off", !box.checked);
    };
    box.addEventListener("change", draw);
    draw();
  }

  if (byId("data")) {
    // ---- atoms, found and listed

    const [overview, latents] = await Promise.all([unpack("data"), unpack("lines")]);
    const data = JSON.parse(overview);
    // One line per latent, parsed when it is shown.
    const lines = latents.split("\n");
    const { atoms, densities, prompts, refined, others, nearest } = data;
    const cosines = atoms.map((_, place) => others.map((other) => other.cosines[place]));
    const farthest = cosines.map((row) => (row.length ? Math.min(...row.map(Math.abs)) : null));
    const list = atomList({
      numbers: atoms,
      prompts,
      orders: {
        atom: (a, b) => a - b,
        used: (a, b) => densities[b] - densities[a] || a - b,
        rare: (a, b) => densities[a] - densities[b] || a - b,
        unlike: (a, b) => (nearest[a] ?? 1) - (nearest[b] ?? 1) || a - b,
        alike: (a, b) => farthest[b] - farthest[a] || a - b,
      },
      perPage: 8,
      ends: [60, 40],
      cells: (place, prompt) => [
        make("td", {}, prompt, ...nearness(place)),
        make("td", { class: "number" }, nearest[place] === null ? "" : cosine(nearest[place])),
        make("td", { class: "number" }, share(densities[place])),
      ],
      changed() {
        // If the atom shown is not among those found, both buttons lead to the first of them.
        const [at, { length }] = [list.at(), list.found()];
        byId("before").disabled = !length || at === 0;
        byId("after").disabled = !length || at === length - 1;
      },
    });

    // The cosine beside the label of a refined atom says how far the label can be trusted.
    const nearness = (place) => (refined === null ? []
      : [" ", make("span", { class: "note", title: "cosine of the refined atom with the marked token’s activation" }, refined[place])]);

    const cosine = (value) => value.toFixed(2).replace("-", "−");

    // ---- an atom beside the latents nearest to it

    const BEFORE = 48;
    const AFTER = 22;
    const starts = [];
    let total = 0;
    for (const tokens of data.tokens) {
      starts.push(total);
      total += tokens.length;
    }

    function show(place) {
      list.mark(place);
      byId("atom").value = String(atoms[place]);
      byId("atom").setCustomValidity("");
      byId("shown-title").replaceChildren(
        `Atom ${whole(atoms[place])}: `, marked(prompts[place]), ...nearness(place));
      const columns = [[data.reference, place, null], ...others.map((o) => [o.name, o.nearest[place], o.cosines[place]])];
      const articles = columns.map(([name]) => make("article", { "aria-label": name }));
      byId("columns").replaceChildren(...articles);
      const room = articles[0].clientWidth;
      columns.forEach(([name, line, near], i) => articles[i].append(...latent(name, JSON.parse(lines[line]), near, room)));
    }

    function latent(name, [number, density, low, width, counts, top, promoted, suppressed], near, room) {
      const kind = near === null ? "atom" : "latent";
      const use = density ? `used by ${share(density)} of tokens` : "used by no token";
      const likeness = near === null ? "the reference" : `cosine ${cosine(near)}`;
      const contexts = [];
      for (let i = 0; i < top.length; i += 2) contexts.push([top[i + 1], context(top[i])]);
      return [
        make("header", {}, make("h4", {}, name),
          make("p", { class: "note" }, `${kind} ${whole(number)}, ${likeness}, ${use}`)),
        make("div", {}, ...(counts.length ? [heading("Activations", ""), histogram({ low, width, counts }, room)] : [])),
        make("div", {}, ...(contexts.length ? [heading("Largest activations", ""), examples(contexts)] : [])),
        make("div", {}, ...(promoted.length ? [heading("Promotes", ""), tokens(promoted)] : [])),
        make("div", {}, ...(suppressed.length ? [heading("Suppresses", ""), tokens(suppressed)] : [])),
      ];
    }

    const tokens = (indices) => make("ul", { class: "tokens" }, ...indices.map((index) =>
      make("li", {}, ...quiet(visible(data.vocabulary[index])))));

    // As in excerpt.py: a token of spaces shows them, an empty one is ∅.
    const visible = (token) => (token.trim() ? token : "␣".repeat(token.length) || "∅");

    // The text around a held-out token, within its row.
    function context(token) {
      let low = 0;
      let high = starts.length;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (starts[middle] <= token) low = middle;
        else high = middle;
      }
      const row = data.tokens[low];
      const at = token - starts[low];
      let [first, before] = [at, ""];
      while (first > 0 && before.length + row[first - 1].length <= BEFORE) before = row[first -= 1] + before;
      let [last, after] = [at + 1, ""];
      while (last < row.length && after.length + row[last].length <= AFTER) after += row[last++];
      return [(first > 0 ? "…" : "") + before, visible(row[at]), after + (last < row.length ? "…" : "")];
    }

    // ---- events

    function step(by) {
      const at = list.at();
      const to = list.found()[at === -1 ? 0 : at + by];
      if (to === undefined) return;
      list.turnTo(to);
      // Change the address without jumping to the section.
      history.replaceState(null, "", `#atom-${atoms[to]}`);
      show(to);
    }

    function follow(place) {
      const inside = byId("browser").contains(document.activeElement);
      show(place);
      if (!inside) byId("latents").scrollIntoView();
    }

    byId("before").addEventListener("click", () => step(-1));
    byId("after").addEventListener("click", () => step(1));
    byId("atom").addEventListener("change", (event) => {
      const place = list.place(Number(event.target.value));
      event.target.setCustomValidity(place === undefined ? `No such atom: ${whole(atoms.length)} are shown` : "");
      if (place === undefined) event.target.reportValidity();
      else show(place);
    });

    list.start(show, follow, show);
  }
  // The milliseconds from the start of the navigation until everything is drawn.
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})().catch((error) => {
  document.getElementById("failed").textContent = `Latents cannot be drawn by this browser (${error.message}): use one of 2023 or newer.`;
});
