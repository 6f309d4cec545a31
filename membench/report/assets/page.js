"use strict";

/* Draws the plots as they come near, in the reader's colours; sorts, filters and saves the table. */

(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const toDark = new Map(Object.entries(JSON.parse(document.getElementById("dark").textContent)));
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 640px)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);

  /* A copy of part of a figure; what its keys call a colour is exchanged for its dark counterpart. */
  function themed(value, isColour) {
    if (Array.isArray(value)) return value.map((inner) => themed(inner, isColour));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, inner]) => [key, themed(inner, /color$/.test(key))]),
      );
    }
    return isColour && isDark() && toDark.has(value) ? toDark.get(value) : value;
  }

  /* Names of rows go above them and names of lines into a legend: beside them there is no room. */
  function narrowed({ data, layout }) {
    const rows = layout.meta?.rows;
    const annotations = layout.annotations ?? [];
    const lines = annotations.some((note) => note.name === "end");
    for (const note of annotations) {
      if (note.name === "row") Object.assign(note, { xanchor: "left", xshift: 0, yshift: 19 });
      if (note.name === "point") {
        note.font.size = 10;
        if (note.text.length > 20) note.text = `${note.text.slice(0, 19)}…`;
      }
    }
    for (const bars of data.filter((trace) => trace.type === "bar")) bars.width = 0.4;
    if (rows) {
      layout.height += rows * 20;
      layout.margin.l = 8;
    }
    if (lines) {
      layout.annotations = annotations.filter((note) => note.name !== "end");
      layout.showlegend = true;
      layout.height += 14 * data.length;
      layout.margin = { ...layout.margin, r: 12, t: 14 * data.length + 24 };
    }
    return { data, layout };
  }

  class Slot {
    constructor(element, choices) {
      this.element = element;
      this.plot = element.querySelector(".plot");
      this.select = element.querySelector(".choice");
      this.choices = choices;
      this.group = 0;
      this.near = false;
      this.select.addEventListener("change", () => this.draw());
      this.offer();
    }

    get figures() {
      return this.choices.always ?? this.choices.by_group[this.group];
    }

    /* What can be chosen here; the choice stays where it is still there. */
    offer() {
      const before = this.select.value;
      const names = this.figures.map(([name]) => name);
      this.select.replaceChildren(...names.map((name) => new Option(name, name, false, name === before)));
      this.select.hidden = names.length < 2;
      this.element.hidden = names.length === 0;
    }

    show(group) {
      this.group = group;
      if (this.choices.always) return;
      this.offer();
      this.draw();
    }

    draw() {
      if (!this.near || this.element.hidden) return;
      const [, figure] = this.figures[Math.max(0, this.select.selectedIndex)];
      const shown = themed(figure, false);
      const { data, layout } = narrow.matches ? narrowed(shown) : shown;
      Plotly.react(this.plot, data, layout, {
        displaylogo: false,
        responsive: true,
        displayModeBar: !narrow.matches,
        modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
      });
    }
  }

  const slots = [];
  for (const script of document.querySelectorAll("script.figures")) {
    const figures = JSON.parse(script.textContent);
    for (const element of document.querySelectorAll(`.slot[data-run="${script.dataset.run}"]`)) {
      slots.push(new Slot(element, figures[element.dataset.slot]));
    }
  }
  const redraw = () => slots.forEach((slot) => slot.draw());

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((each) => each.isIntersecting)) {
        const slot = slots.find((each) => each.element === entry.target);
        watcher.unobserve(entry.target);
        slot.near = true;
        slot.draw();
      }
    },
    { rootMargin: "800px" },
  );
  slots.forEach((slot) => watcher.observe(slot.element));
  addEventListener("beforeprint", () => {
    slots.forEach((slot) => (slot.near = true));
    redraw();
  });
  systemDark.addEventListener("change", redraw);
  narrow.addEventListener("change", redraw);

  const theme = document.getElementById("theme");
  const themes = ["", "light", "dark"];
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme ?? "") + 1) % themes.length];
    if (next) root.dataset.theme = next;
    else delete root.dataset.theme;
    theme.textContent = { "": "Auto", light: "Light", dark: "Dark" }[next];
    theme.setAttribute("aria-label", `Colours: ${next || "as the system has them"}`);
    redraw();
  });

  function showGroup(run, group) {
    for (const table of document.querySelectorAll(`.at[data-run="${run}"]`)) {
      table.classList.toggle("shown", Number(table.dataset.group) === group);
    }
    slots.filter((slot) => slot.element.dataset.run === run).forEach((slot) => slot.show(group));
  }
  document.querySelectorAll(".run").forEach((run) => showGroup(run.dataset.run, 0));
  for (const select of document.querySelectorAll("select.group")) {
    select.addEventListener("change", () => showGroup(select.dataset.run, select.selectedIndex));
  }

  const body = document.querySelector("#cases tbody");
  const headers = [...document.querySelectorAll("#cases th")];
  const rows = [...body.rows];
  const shownRows = () => [...body.rows].filter((row) => !row.hidden);
  const valueIn = (row, column) => row.cells[column].dataset.value;

  /* Numbers by size, words by letters, the unknown always last. */
  const compare = (a, b, numeric) => (numeric ? Number(a) - Number(b) : a.localeCompare(b));
  headers.forEach((header, column) => {
    header.firstElementChild.addEventListener("click", () => {
      const rising = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach((each) => each.setAttribute("aria-sort", "none"));
      header.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const numeric = header.classList.contains("n");
      const known = rows.filter((row) => valueIn(row, column) !== undefined);
      const unknown = rows.filter((row) => valueIn(row, column) === undefined);
      known.sort((a, b) => (rising ? 1 : -1) * compare(valueIn(a, column), valueIn(b, column), numeric));
      body.append(...known, ...unknown);
    });
  });

  const filter = document.getElementById("filter");
  const count = document.getElementById("count");
  const texts = new Map(rows.map((row) => [row, [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase()]));
  function applyFilter() {
    const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !wanted.every((word) => texts.get(row).includes(word));
    count.textContent = `${shownRows().length} of ${rows.length} ${rows.length === 1 ? "case" : "cases"}`;
  }
  filter.addEventListener("input", applyFilter);
  applyFilter();

  /* A cell of words that a spreadsheet would compute is made plain text. */
  function csvCell(value, numeric) {
    const text = value === undefined ? "" : !numeric && /^[=+\-@\t\r＝＋－＠]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }
  document.getElementById("csv").addEventListener("click", () => {
    const numeric = headers.map((header) => header.classList.contains("n"));
    const lines = [
      headers.map((header) => csvCell(header.textContent, false)),
      ...shownRows().map((row) => headers.map((_, column) => csvCell(valueIn(row, column), numeric[column]))),
    ];
    const blob = new Blob([lines.map((line) => line.join(",") + "\n").join("")], { type: "text/csv" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "membench.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
})();
