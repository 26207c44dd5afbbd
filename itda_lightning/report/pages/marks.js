// Marks atoms and offers the list of those marked as a file; the browser remembers them, if it may.
"use strict";

// key names the page's marks among others'; row(number) are the fields of an atom, whose names are in columns.
const atomMarks = ({ key, numbers, columns, row }) => {
  const { make, byId, whole } = drawing;
  const known = new Set(numbers);
  const marked = new Set(remembered().filter((number) => known.has(number)));

  function remembered() {
    try {
      const found = JSON.parse(localStorage.getItem(key));
      return Array.isArray(found) ? found : [];
    } catch {
      return [];
    }
  }

  function remember() {
    try {
      localStorage.setItem(key, JSON.stringify([...marked]));
    } catch {
      // A browser that keeps nothing of files: the marks last as long as the page is open.
    }
  }

  function button(number) {
    const shown = make("button", { type: "button", class: "mark-atom" });
    const draw = () => {
      const on = marked.has(number);
      shown.setAttribute("aria-pressed", String(on));
      shown.textContent = on ? "★ Marked" : "☆ Mark";
    };
    shown.addEventListener("click", () => {
      if (!marked.delete(number)) marked.add(number);
      remember();
      draw();
      offer();
    });
    draw();
    return shown;
  }

  const quoted = (field) => `"${String(field).replaceAll('"', '""')}"`;

  // A link with the list in it: nothing is fetched.
  function offer() {
    const lines = [columns, ...[...marked].sort((a, b) => a - b).map(row)].map((fields) => fields.map(quoted).join(","));
    const link = byId("export");
    link.hidden = !marked.size;
    link.href = `data:text/csv;charset=utf-8,${encodeURIComponent(`${lines.join("\n")}\n`)}`;
    link.textContent = `Save the ${marked.size === 1 ? "marked atom" : `${whole(marked.size)} marked atoms`} (CSV)`;
  }

  offer();
  return { button };
};
