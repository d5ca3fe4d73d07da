"use strict";
// Sorting alone needs a script: without one, tables stay in the order in which they were written.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  const status = document.createElement("p");
  status.setAttribute("role", "status");
  status.className = "faint";
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const isNumber = body.rows[0].cells[column].dataset.value !== undefined;
      const before = head.getAttribute("aria-sort");
      const descends = before === null ? isNumber : before === "ascending";
      const rows = [...body.rows].sort((a, b) => compare(valueOf(a, column), valueOf(b, column)));
      body.append(...(descends ? rows.reverse() : rows));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descends ? "descending" : "ascending");
      status.textContent = `Sorted by ${button.textContent}, ${descends ? "descending" : "ascending"}.`;
    });
  });
  table.closest(".scroll").after(status);
}
