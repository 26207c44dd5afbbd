// Sorts the tables.
"use strict";

(() => {
  function sortBy(header) {
    const table = header.closest("table");
    const headers = [...table.tHead.rows[0].cells];
    const column = headers.indexOf(header);
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of headers) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const number = header.dataset.type === "number";
    const compare = (a, b) => (number ? Number(a) - Number(b) : a.localeCompare(b)) * (down ? -1 : 1);
    const body = table.tBodies[0];
    const value = (row) => row.cells[column].dataset.sort;
    const rank = (row) => Number(row.cells[0].dataset.sort);
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b)) || rank(a) - rank(b)));
    table.closest("section").querySelector(".sorted").textContent =
      `Sorted by ${header.textContent}, ${down ? "descending" : "ascending"}.`;
  }

  for (const header of document.querySelectorAll(".ranking thead th")) {
    header.firstElementChild.addEventListener("click", () => sortBy(header));
  }
})();
