"use strict";
(() => {
  const details = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const table = byId("rows");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const search = byId("search");
  const order = byId("order");
  const boxes = [...document.querySelectorAll("#states input")];
  const known = new Set(boxes.map((box) => box.value));
  const texts = rows.map((row) => {
    const words = details[row.dataset.place].map(([what, value]) => `${what} ${value}`).join(" ");
    return `${row.textContent} ${words}`.toLowerCase();
  });

  const close = (row) => {
    const next = row.nextElementSibling;
    if (next && next.className === "details") next.remove();
    row.querySelector("button").setAttribute("aria-expanded", "false");
  };

  const open = (row) => {
    const line = document.createElement("tr");
    line.className = "details";
    const cell = document.createElement("td");
    cell.colSpan = 6;
    const list = document.createElement("dl");
    for (const [what, value] of details[row.dataset.place]) {
      const term = document.createElement("dt");
      term.textContent = what;
      const meaning = document.createElement("dd");
      meaning.textContent = value;
      list.append(term, meaning);
    }
    cell.append(list);
    line.append(cell);
    row.after(line);
    row.querySelector("button").setAttribute("aria-expanded", "true");
  };

  const isOpen = (row) => row.querySelector("button").getAttribute("aria-expanded") === "true";

  const show = () => {
    rows.filter(isOpen).forEach(close);
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const allowed = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const key = order.value;
    const sorted = [...rows];
    if (key === "blame") sorted.sort((a, b) => Number(b.dataset.blame) - Number(a.dataset.blame));
    if (key === "sqnr") sorted.sort((a, b) => Number(a.dataset.sqnr) - Number(b.dataset.sqnr));
    body.append(...sorted);
    let found = 0;
    for (const row of rows) {
      const fits = words.every((word) => texts[row.dataset.place].includes(word));
      row.hidden = !fits || (known.has(row.dataset.state) && !allowed.has(row.dataset.state));
      found += row.hidden ? 0 : 1;
    }
    // Lines join rows that stand one below the other in the graph's order, all of them.
    table.classList.toggle("loose", key !== "graph" || found < rows.length);
    byId("count").textContent = `${found} of ${rows.length} rows`;
  };

  body.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const row = button.closest("tr");
    if (isOpen(row)) close(row);
    else open(row);
  });
  search.addEventListener("input", show);
  order.addEventListener("change", show);
  for (const box of boxes) box.addEventListener("change", show);

  const followLink = () => {
    if (!location.hash.startsWith("#op=")) return;
    const name = decodeURIComponent(location.hash.slice("#op=".length));
    search.value = "";
    order.value = "graph";
    for (const box of boxes) box.checked = true;
    show();
    const row = rows.find((candidate) => candidate.dataset.name === name);
    if (!row) return;
    open(row);
    row.scrollIntoView({ block: "center" });
    row.querySelector("button").focus({ preventScroll: true });
  };
  window.addEventListener("hashchange", followLink);
  show();
  followLink();
})();
