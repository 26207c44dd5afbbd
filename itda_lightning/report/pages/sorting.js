// Sorts tables by the column whose heading is pressed; pressed again, in descending order.
"use strict";

(() => {
  // What a row lacks is null; a cell that spans columns, as the reason of a failure does, is no value of any of them.
  function value(row, column, number) {
    let place = 0;
    for (const cell of row.cells) {
      if (place === column && cell.colSpan === 1 && cell.dataset.sort) return number ? Number(cell.dataset.sort) : cell.dataset.sort;
      place += cell.colSpan;
    }
    return null;
  }

  function sortBy(header) {
    const table = header.closest("table");
    const headers = [...table.tHead.rows[0].cells];
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of headers) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const number = header.dataset.type === "number";
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [value(row, headers.indexOf(header), number), value(row, 0, true), row]);
    // Missing values come last in both directions; equal ones stay in the order of the first column.
    const compare = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return (number ? a - b : a.localeCompare(b)) * (down ? -1 : 1);
    };
    keyed.sort((a, b) => compare(a[0], b[0]) || a[1] - b[1]);
    body.append(...keyed.map(([, , row]) => row));
    table.closest("section").querySelector(".sorted").textContent =
      `Sorted by ${header.textContent}, ${down ? "descending" : "ascending"}.`;
  }

  for (const header of document.querySelectorAll(".sortable thead th")) {
    header.firstElementChild.addEventListener("click", () => sortBy(header));
  }
})();
