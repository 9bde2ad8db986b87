"use strict";
const table = document.getElementById("sounds");
const body = table.tBodies[0];
const order = document.getElementById("order");
const turn = document.getElementById("turn");
const filter = document.getElementById("filter");
const headings = [...table.querySelectorAll("[data-order]")];
const rows = [...body.rows].map((row) => ({
  row, values: JSON.parse(row.dataset.values), words: row.dataset.words,
}));
let down = false;

// Sorting: rows without a value come last in both directions.

function compare(a, b) {
  return typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
}

function sort(place, largestFirst) {
  down = largestFirst;
  order.value = place;
  const has = (entry) => entry.values[place] !== null;
  const sorted = rows.filter(has).sort(
    (a, b) => (down ? -1 : 1) * compare(a.values[place], b.values[place]));
  body.append(...sorted.concat(rows.filter((entry) => !has(entry))).map(({ row }) => row));
  turn.textContent = down ? "\u25BC" : "\u25B2";
  for (const heading of headings) {
    const state = Number(heading.dataset.order) === place ? (down ? "descending" : "ascending")
      : "none";
    heading.closest("th").setAttribute("aria-sort", state);
  }
}

order.addEventListener("change", () => {
  sort(Number(order.value), "down" in order.selectedOptions[0].dataset);
});
turn.addEventListener("click", () => sort(Number(order.value), !down));
for (const heading of headings) {
  heading.addEventListener("click", () => {
    const place = Number(heading.dataset.order);
    sort(place, Number(order.value) === place && !down);
  });
}

// Filter: show the rows that contain all words.

filter.addEventListener("input", () => {
  const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const { row, words } of rows) row.hidden = !wanted.every((word) => words.includes(word));
  const shown = rows.filter(({ row }) => !row.hidden).length;
  document.getElementById("count").textContent = `${shown} of ${rows.length}`;
});
document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
