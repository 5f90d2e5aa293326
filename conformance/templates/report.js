"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [ID, STATUS, MESSAGE, SIGNATURE, NUMBERS, SECONDS] = [0, 1, 2, 3, 4, 5];
  const PAGE = 100;
  const byId = (id) => document.getElementById(id);
  const search = byId("search");
  const boxes = [...document.querySelectorAll("#statuses input")];
  const rows = [...document.querySelectorAll(".matrix tbody tr")];
  const checks = [...document.querySelectorAll(".matrix button[data-check]")].map((button) => button.dataset.check);
  const chosen = { subject: null, check: null };
  let shown = PAGE;

  // What a case is, and the text that is searched.
  const cases = data.cases.map((row, place) => {
    const [head, subject] = row[ID].split("/", 2);
    return {
      row, place, subject, check: head.split(".")[1], level: head.split(".")[0],
      text: `${row[ID]} ${data.statuses[row[STATUS]]} ${row[SIGNATURE]} ${row[MESSAGE]}`.toLowerCase(),
    };
  });
  cases.sort((a, b) => data.severity[a.row[STATUS]] - data.severity[b.row[STATUS]] || a.place - b.place);

  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };

  const isChosen = (item) =>
    (chosen.subject === null || item.subject === chosen.subject) && (chosen.check === null || item.check === chosen.check);

  const filtered = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const allowed = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    return cases.filter(
      (item) => allowed.has(data.statuses[item.row[STATUS]]) && words.every((word) => item.text.includes(word)));
  };

  const written = (value) => {
    if (Array.isArray(value)) return value.map(written).join(", ");
    if (value !== null && typeof value === "object") {
      const entries = Object.entries(value).sort(([a], [b]) => Number(a) - Number(b) || 0);
      return entries.map(([key, part]) => `${key}: ${written(part)}`).join("; ");
    }
    return String(value);
  };

  const numbersOf = (item) => {
    const numbers = { ...item.row[NUMBERS] };
    const bins = numbers.half_distances;
    if (bins) numbers.half_distances = { ...bins, edges: data.edges[bins.edges] };
    return numbers;
  };

  const fillBody = (item, body) => {
    if (item.row[MESSAGE]) body.append(make("p", item.row[MESSAGE], "message"));
    if (item.row[SIGNATURE]) {
      const line = make("p", "Signature ", "faint");
      line.append(make("code", item.row[SIGNATURE]));
      body.append(line);
    }
    const specified = make("p", "Specified in ", "faint");
    specified.append(make("code", data.paragraphs[item.check]));
    body.append(specified);
    const plot = byId("case-plots").content.querySelector(`[data-case="${item.place}"]`);
    if (plot) body.append(plot.cloneNode(true));
    const table = make("table", undefined, "figures");
    const addRow = (name, value, meaning) => {
      const row = make("tr");
      const head = make("th", name, "id");
      head.scope = "row";
      row.append(head, make("td", value, "id"), make("td", meaning, "faint"));
      table.append(row);
    };
    const numbers = numbersOf(item);
    const known = Object.keys(data.figures).filter((key) => key in numbers);
    const others = Object.keys(numbers).filter((key) => !(key in data.figures)).sort();
    for (const key of [...known, ...others]) addRow(key, written(numbers[key]), data.figures[key] || "");
    addRow("seconds", String(item.row[SECONDS]), "how long it took");
    const scroll = make("div", undefined, "scroll");
    scroll.append(table);
    body.append(scroll);
    const link = make("a", "Link to this case");
    link.href = `#case=${encodeURIComponent(item.row[ID])}`;
    body.append(link);
  };

  const caseElement = (item) => {
    const status = data.statuses[item.row[STATUS]];
    const details = make("details", undefined, "case");
    const summary = make("summary");
    summary.append(make("span", `${data.symbols[item.row[STATUS]]} ${status}`, `status ${status}`));
    summary.append(make("span", item.row[ID], "id"));
    const first = item.row[MESSAGE].split("\n", 1)[0];
    if (first) summary.append(make("span", ` ${first.length > 160 ? `${first.slice(0, 160)} …` : first}`, "faint"));
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (!details.open || details.children.length > 1) return;
      const body = make("div", undefined, "body");
      fillBody(item, body);
      details.append(body);
    });
    return details;
  };

  const showPlots = () => {
    const place = byId("chosen-plots");
    place.replaceChildren();
    if (chosen.subject === null) return;
    const level = chosen.check === null ? null : document.querySelector(`[data-check="${chosen.check}"]`).dataset.level;
    for (const figure of document.querySelectorAll("#plots figure")) {
      const fits = figure.dataset.subject === chosen.subject && (level === null || figure.dataset.level === level);
      if (fits) place.append(figure.cloneNode(true));
    }
  };

  const show = () => {
    const found = filtered();
    const subjects = new Set(found.map((item) => item.subject));
    for (const row of rows) row.hidden = !subjects.has(row.dataset.subject);
    const listed = found.filter(isChosen);
    const names = [chosen.check, chosen.subject].filter((name) => name !== null);
    byId("chosen").textContent = names.length ? names.join(" on ") : "All checks on all subjects";
    byId("count").textContent = `${listed.length} of ${cases.length} cases`;
    byId("list").replaceChildren(...listed.slice(0, shown).map(caseElement));
    byId("more").hidden = listed.length <= shown;
    for (const button of document.querySelectorAll(".matrix button")) {
      const place = placeOf(button);
      const pressed = names.length > 0 && place.subject === chosen.subject && place.check === chosen.check;
      button.setAttribute("aria-pressed", String(pressed));
    }
  };

  const placeOf = (button) => {
    const row = button.closest("tr");
    const cell = button.closest("td");
    if (button.dataset.check) return { subject: null, check: button.dataset.check };
    return { subject: row.dataset.subject, check: cell ? checks[cell.cellIndex - 1] : null };
  };

  const choose = (subject, check) => {
    Object.assign(chosen, { subject, check });
    shown = PAGE;
    show();
    showPlots();
  };

  document.querySelector(".matrix").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const place = placeOf(button);
    choose(place.subject, place.check);
    byId("cases").scrollIntoView({ block: "start" });
    byId("chosen").focus({ preventScroll: true });
  });
  search.addEventListener("input", () => { shown = PAGE; show(); });
  for (const box of boxes) box.addEventListener("change", () => { shown = PAGE; show(); });
  byId("more").addEventListener("click", () => { shown += PAGE; show(); });
  byId("reset").addEventListener("click", () => {
    search.value = "";
    for (const box of boxes) box.checked = true;
    choose(null, null);
  });

  const followLink = () => {
    if (!location.hash.startsWith("#case=")) return;
    const id = decodeURIComponent(location.hash.slice("#case=".length));
    search.value = id;
    for (const box of boxes) box.checked = true;
    choose(null, null);
    byId("cases").scrollIntoView({ block: "start" });
    const first = byId("list").querySelector("details");
    if (first) first.open = true;
  };
  window.addEventListener("hashchange", followLink);
  show();
  followLink();
})();
