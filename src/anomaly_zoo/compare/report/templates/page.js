"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const dark = () => (chosen ?? (prefersDark.matches ? "dark" : "light")) === "dark";

  // Plotly draws in fixed colours, so the page's own are handed over; a figure is drawn when it can first be seen.
  const ink = () => {
    const style = getComputedStyle(root);
    const [text, line] = [style.getPropertyValue("--ink").trim(), style.getPropertyValue("--line").trim()];
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line };
    return { font: { color: text, family: "system-ui, sans-serif", size: 12 }, axis };
  };
  const draw = (plot) => {
    const figure = JSON.parse(plot.parentElement.querySelector('script[type="application/json"]').textContent);
    const { font, axis } = ink();
    const layout = { ...figure.layout, font, xaxis: { ...figure.layout.xaxis, ...axis }, yaxis: { ...figure.layout.yaxis, ...axis } };
    plot.dataset.drawn = "yes";
    Plotly.newPlot(plot, figure.data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  };
  const drawVisible = (everything = false) => {
    for (const plot of document.querySelectorAll(".plot")) {
      if (!plot.dataset.drawn && (everything || plot.offsetParent !== null)) draw(plot);
    }
  };
  const repaint = () => {
    const { font, axis } = ink();
    const changes = { font };
    for (const [name, value] of Object.entries(axis)) {
      changes[`xaxis.${name}`] = value;
      changes[`yaxis.${name}`] = value;
    }
    for (const plot of document.querySelectorAll(".plot[data-drawn]")) Plotly.relayout(plot, changes);
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(dark()));
  };
  button.addEventListener("click", () => {
    chosen = dark() ? "light" : "dark";
    root.dataset.theme = chosen;
    repaint();
  });
  prefersDark.addEventListener("change", repaint);
  for (const details of document.querySelectorAll("details")) details.addEventListener("toggle", () => drawVisible());

  // On paper: light, everything open and drawn
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const details of closed) details.open = true;
    root.dataset.theme = "light";
    drawVisible(true);
    repaint();
  });
  addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
    if (chosen) root.dataset.theme = chosen;
    else delete root.dataset.theme;
    repaint();
  });

  // Sorting: numbers by data-value, words by their text; cells without a value stay below
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  const compare = (a, b, sign) => {
    const [leftEmpty, rightEmpty] = [a, b].map((x) => x === "" || x === "—" || x === "n/a");
    if (leftEmpty || rightEmpty) return leftEmpty - rightEmpty;
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const ascending = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort((a, b) => compare(value(a, column), value(b, column), ascending ? 1 : -1)));
      });
    });
  }

  // Filtering: every word must occur in dataset, category, shots or method, numbers as the number of shots
  const filter = document.getElementById("filter");
  const rows = [...document.getElementById("results").tBodies[0].rows];
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = [0, 1, 3].map((column) => row.cells[column].textContent.toLowerCase()).join(" ");
      const shots = row.cells[2].textContent;
      row.hidden = !words.every((word) => (/^\d+$/.test(word) ? word === shots : text.includes(word)));
    }
    document.getElementById("shown").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  });

  drawVisible();
  repaint();
})();
