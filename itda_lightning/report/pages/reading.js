// Held-out texts, token by token: shaded by what is left unexplained or by one atom; a token clicked shows its code.
"use strict";

// rows: {pieces, codes: [unexplained, norm, atoms, coefficients] or null}; labels are prompts by atom.
const reading = ({ rows, labels }) => {
  const { make, byId, short, percent, coefficient, marked, quiet, ending } = drawing;
  const texts = rows.map((row) => row.pieces.join("").toLowerCase());
  let found = [...rows.keys()];
  let at = 0;
  let atom = null;

  function strength(code) {
    if (code === null) return 0;
    if (atom === null) return code[0];
    const place = code[2].indexOf(atom);
    return place === -1 ? 0 : code[3][place];
  }

  const largest = () => Math.max(1e-9, ...rows.flatMap((row) => row.codes.map((code) => Math.abs(strength(code)))));

  function draw() {
    const none = !found.length;
    byId("text-before").disabled = none || at === 0;
    byId("text-after").disabled = none || at === found.length - 1;
    byId("texts-found").textContent = none
      ? "None of these texts holds that. itda decompose --text reads any sentence."
      : `Text ${at + 1} of ${found.length}`;
    const { pieces, codes } = none ? { pieces: [], codes: [] } : rows[found[at]];
    const most = atom === null ? 1 : largest();
    byId("text").replaceChildren(...pieces.map((piece, place) => {
      const code = codes[place];
      if (code === null) return make("span", { class: "token left-out" }, ...quiet(piece));
      const value = strength(code);
      const token = make("span", {
        class: value < 0 ? "token less" : "token", role: "button", tabindex: "0", "data-place": String(place),
        title: atom === null ? `${percent(value)} unexplained` : `coefficient ${short(value)}`,
      }, piece);
      token.style.setProperty("--heat", `${Math.round(100 * Math.min(1, Math.abs(value) / most))}%`);
      return token;
    }));
    byId("shade").replaceChildren(...(atom === null
      ? ["Shaded by the share of each token that is left unexplained. Click a token to see its atoms."]
      : ["Shaded by the coefficient of ", make("a", { href: `#atom-${atom}` }, `atom ${atom}`), " ", marked(shortened(labels.get(atom))), " ",
        button("Shade by what is unexplained", () => shadeBy(null))]));
    byId("token").replaceChildren();
  }

  const shortened = (prompt) => prompt && [ending(prompt[0], 30), prompt[1], prompt[2].slice(0, 15)];

  function button(text, act) {
    const shown = make("button", { type: "button" }, text);
    shown.addEventListener("click", act);
    return shown;
  }

  function shadeBy(number) {
    atom = number;
    draw();
  }

  function explain(place) {
    for (const token of byId("text").children) token.removeAttribute("aria-current");
    byId("text").children[place].setAttribute("aria-current", "true");
    const row = rows[found[at]];
    const [unexplained, norm, atoms, coefficients] = row.codes[place];
    const most = Math.max(...coefficients.map(Math.abs), 1e-9);
    const lines = atoms.map((number, i) => {
      const bar = make("span", { class: coefficients[i] < 0 ? "bar-negative" : "bar-positive" });
      bar.style.setProperty("width", `${(100 * Math.abs(coefficients[i])) / most}%`);
      return make("tr", {},
        make("td", { class: "number" }, make("a", { href: `#atom-${number}` }, String(number))),
        make("td", { class: "number" }, coefficient(coefficients[i])),
        make("td", { class: "bar" }, bar),
        make("td", {}, marked(shortened(labels.get(number)))),
        make("td", {}, button("Shade", () => shadeBy(number))));
    });
    const heads = ["Atom", "Coefficient", "", "The atom’s label", ""];
    byId("token").replaceChildren(
      make("h3", {}, make("mark", {}, row.pieces[place]), ` is a sum of ${atoms.length} atoms`),
      make("p", { class: "note" }, `${percent(unexplained)} unexplained; norm ${short(norm)}`),
      make("table", { class: "code" }, make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))),
        make("tbody", {}, ...lines)));
  }

  // Shades by an atom, in the text that uses it most; false if none of these texts does.
  function show(number) {
    const uses = rows.map((row) => row.codes.reduce((sum, code) => {
      const place = code === null ? -1 : code[2].indexOf(number);
      return place === -1 ? sum : sum + Math.abs(code[3][place]);
    }, 0));
    const most = Math.max(...uses);
    if (!(most > 0)) return false;
    byId("find-text").value = "";
    found = [...rows.keys()];
    at = uses.indexOf(most);
    shadeBy(number);
    byId("reading").scrollIntoView();
    return true;
  }

  function search() {
    const query = byId("find-text").value.trim().toLowerCase();
    found = [...rows.keys()].filter((row) => texts[row].includes(query));
    at = 0;
    draw();
  }

  function turn(by) {
    at += by;
    draw();
  }

  const placeOf = (event) => event.target.closest?.("[data-place]")?.dataset.place;
  byId("text").addEventListener("click", (event) => {
    const place = placeOf(event);
    if (place !== undefined) explain(Number(place));
  });
  byId("text").addEventListener("keydown", (event) => {
    const place = placeOf(event);
    if (place === undefined || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    explain(Number(place));
  });
  byId("find-text").addEventListener("input", search);
  byId("text-before").addEventListener("click", () => turn(-1));
  byId("text-after").addEventListener("click", () => turn(1));
  byId("reader").hidden = false;
  draw();
  return { show };
};
