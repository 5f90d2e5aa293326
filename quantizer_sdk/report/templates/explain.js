"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const body = byId("table").tBodies[0];
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const search = byId("search");
  const boxes = [...document.querySelectorAll("#states input")];

  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const allowed = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let shown = 0;
    for (const row of rows) {
      row.hidden = !allowed.has(row.dataset.state) || !words.every((word) => texts.get(row).includes(word));
      shown += row.hidden ? 0 : 1;
    }
    byId("count").textContent = `${shown} of ${rows.length} ops`;
  };

  const keyOf = (row, place) => {
    const cell = row.cells[place];
    if (cell.dataset.sort === undefined) return cell.textContent.trim().toLowerCase();
    return cell.dataset.sort === "" ? NaN : Number(cell.dataset.sort);
  };

  // What has no value comes last, whatever the direction.
  const compare = (a, b, down) => {
    const [lacksA, lacksB] = [a === "" || Number.isNaN(a), b === "" || Number.isNaN(b)];
    if (lacksA || lacksB) return Number(lacksA) - Number(lacksB);
    const order = a < b ? -1 : a > b ? 1 : 0;
    return down ? -order : order;
  };

  const heads = [...document.querySelectorAll("#table thead th")];
  heads.forEach((head, place) => {
    head.querySelector("button").addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const numbers = rows.length > 0 && rows[0].cells[place].dataset.sort !== undefined && place > 0;
      const down = before === "none" ? numbers : before === "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keys = new Map(rows.map((row) => [row, keyOf(row, place)]));
      body.append(...[...rows].sort((a, b) => compare(keys.get(a), keys.get(b), down)));
    });
  });

  search.addEventListener("input", show);
  for (const box of boxes) box.addEventListener("change", show);
  show();
})();
