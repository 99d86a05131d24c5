// A click on a column's name sorts the table by it, and a long table has a field to search it. Without this script the
// tables are merely unsorted, and whole.
"use strict";
const value = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  return cell.matches(".num") ? parseFloat(text.replace(/[<>,]/g, "")) : text;
};
const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
const ordered = (rows, column, sign) => {
  const known = rows.filter((row) => !Number.isNaN(value(row, column)));
  const unknown = rows.filter((row) => Number.isNaN(value(row, column))); // an en dash: always last
  return [...known.sort((a, b) => sign * compare(value(a, column), value(b, column))), ...unknown];
};

for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    if (head.matches(".fixed")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      table.tBodies[0].append(...ordered([...table.tBodies[0].rows], column, down ? -1 : 1));
    });
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length <= 40) continue;
  const field = document.createElement("input");
  field.type = "search";
  field.className = "find";
  field.placeholder = "Find a class";
  field.setAttribute("aria-label", "Find a class in the table below");
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
  });
  table.closest(".scroll").before(field);
}
