"use strict";
(() => {
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // One look for every figure, from the page's own colours, so that light and dark agree.
  const themed = (layout) => {
    const axis = { gridcolor: style("--grid"), linecolor: style("--line"), tickcolor: style("--line") };
    const merged = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true };
    merged.font = { ...(layout.font || {}), color: style("--ink"), family: "system-ui, sans-serif", size: 12 };
    merged.hoverlabel = { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--ink") }, align: "left" };
    merged.modebar = { bgcolor: "rgba(0,0,0,0)", color: style("--soft"), activecolor: style("--accent") };
    for (const key of Object.keys(layout)) if (/^[xy]axis\d*$/.test(key)) merged[key] = { automargin: true, ...layout[key], ...axis, title: { standoff: 8, ...layout[key].title } };
    // An arm's name is read across the lines behind it.
    if (layout.annotations) merged.annotations = layout.annotations.map((one) => (one.name === "arm" ? { ...one, bgcolor: style("--paper") } : one));
    return merged;
  };

  const drawn = new Map(); // each with what is fulfilled once it stands
  const draw = (plot) => {
    if (drawn.has(plot)) return drawn.get(plot);
    const figure = JSON.parse(document.getElementById(plot.dataset.figure).textContent);
    const buttons = [["zoom2d", "pan2d", "resetScale2d"]];
    const standing = Plotly.newPlot(plot, figure.data, themed(figure.layout), {
      responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtons: buttons,
    }).then(() => hideArms(plot));
    // Room that was reckoned is for the labels as first drawn; where one looks closer they are longer.
    if (figure.layout.yaxis?.automargin === false) standing.then(() => plot.once("plotly_relayout", () => Plotly.relayout(plot, { "yaxis.automargin": true })));
    drawn.set(plot, standing);
    return standing;
  };

  // Files of a figure: as it is seen now, on paper of its own, with its title; or what it shows, as rows.
  const save = (content, name) => {
    const link = document.createElement("a");
    link.href = typeof content === "string" ? content : URL.createObjectURL(content);
    link.download = name;
    link.click();
    if (typeof content !== "string") setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  const titleOf = (plot) => plot.dataset.title || "";
  const asImage = async (plot, format) => {
    const layout = { ...plot.layout, paper_bgcolor: style("--paper"), autosize: false };
    if (titleOf(plot)) {
      layout.title = { text: titleOf(plot).replaceAll("&", "&amp;").replaceAll("<", "&lt;"), x: 0.02, xanchor: "left", automargin: true, yref: "container", font: { size: 14 } };
      layout.margin = { ...layout.margin, t: 50 };
    }
    const size = { width: Math.max(700, plot.clientWidth), height: plot.clientHeight + (titleOf(plot) ? 40 : 0) };
    save(await Plotly.toImage({ data: plot.data, layout }, { format, scale: format === "png" ? 2 : 1, ...size }), `${plot.dataset.figure}.${format}`);
  };
  const values = (some) => (Array.isArray(some) || ArrayBuffer.isView(some) ? Array.from(some) : []);
  // `spread` is the outline of the band that is drawn around a line: its upper edge onwards, its lower one back. A text beside a mark
  // only says in fewer digits what x and y do; where y is no more than a place on the page it is left out.
  const rowsOf = (trace, spread, placed) => {
    const [x, y, z, text, colour] = [trace.x, trace.y, trace.z, trace.text, (trace.marker || {}).color].map(values);
    if (z.length) return z.flatMap((row, i) => values(row).map((value, j) => ({ x: x[j], y: y[i], value }))).filter((row) => row.value !== null && row.value !== undefined);
    const said = /text/.test(trace.mode) || trace.type === "waterfall" ? [] : text;
    const ends = (key, at) => {
      const bar = trace[`error_${key}`] || {};
      const [above, below] = [values(bar.array), values(bar.arrayminus || bar.array)];
      const middle = key === "x" ? x[at] : y[at];
      if (key === "y" && spread) return { y_low: spread[spread.length - 1 - at], y_high: spread[at] };
      if (key === "y" && trace.meta && trace.meta.low) return { y_low: trace.meta.low[at], y_high: trace.meta.high[at] };
      return bar.visible === false || above[at] === undefined ? {} : { [`${key}_low`]: middle - below[at], [`${key}_high`]: middle + above[at] };
    };
    const count = Math.max(x.length, y.length);
    const number = (some) => (typeof some === "number" ? some : undefined);
    return Array.from({ length: count }, (_, at) => ({ x: x[at], y: placed ? undefined : y[at], value: number(colour[at]), text: said[at], ...ends("x", at), ...ends("y", at) }));
  };
  // Plotly reads a little HTML, so names reach it escaped; in a file they stand as they were typed.
  const typed = (value) => (typeof value === "string" ? value.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&") : value);
  // A spreadsheet would take a text that begins so for a formula, and run it.
  const harmless = (value) => (typeof value === "string" && /^[=+\-@\t\r]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : value);
  const cell = (value) => {
    const text = value === undefined || value === null ? "" : String(harmless(typed(value)));
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  // Bands and lines that mean something have a name; along the axis that they cross from end to end they have no place.
  const rowsOfShape = ({ name, xref, yref, x0, x1, y0, y1 }) => {
    const along = (key, ref, from, to) => (/domain|paper/.test(ref || "") ? {} : from === to ? { [key]: from } : { [`${key}_low`]: from, [`${key}_high`]: to });
    return { series: name, ...along("x", xref, x0, x1), ...along("y", yref, y0, y1) };
  };
  const asRows = (plot) => {
    const marks = (plot.layout.shapes || []).filter((shape) => shape.name).map(rowsOfShape);
    const seriesOf = (trace) => trace._input.name || trace.legendgroup || undefined;
    const placed = plot._fullLayout.yaxis && plot._fullLayout.yaxis.visible === false;
    let band;
    const rows = plot._fullData.flatMap((trace) => {
      if (trace.meta === "unknown") return [{ series: seriesOf(trace), text: values(trace.text)[0] }]; // its mark stands somewhere all the same
      if (trace.meta === "band") { band = values(trace.y); return []; }
      const found = rowsOf(trace, band, placed).map((row) => ({ series: seriesOf(trace), ...row }));
      band = undefined;
      return found;
    }).concat(marks);
    const columns = ["series", "x", "x_low", "x_high", "y", "y_low", "y_high", "value", "text"].filter((name) => rows.some((row) => row[name] !== undefined));
    const lines = [columns, ...rows.map((row) => columns.map((name) => row[name]))].map((line) => line.map(cell).join(","));
    save(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }), `${plot.dataset.figure}.csv`);
  };
  document.querySelectorAll(".downloads button").forEach((button) => button.addEventListener("click", async () => {
    const plot = button.closest("figure").querySelector(".plot");
    await draw(plot);
    if (button.dataset.form === "csv") asRows(plot);
    else await asImage(plot, button.dataset.form);
  }));

  const plots = [...document.querySelectorAll(".plot")];
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => { near.unobserve(entry.target); draw(entry.target); }),
    { rootMargin: "800px" },
  );
  plots.forEach((plot) => near.observe(plot));
  // The others when there is time, one by one, so that the page opens at once and is whole soon after.
  const idle = (next) => (window.requestIdleCallback ? requestIdleCallback(next, { timeout: 300 }) : setTimeout(next, 50));
  const drawNext = () => {
    const plot = plots.find((candidate) => !drawn.has(candidate));
    if (plot) draw(plot).then(() => setTimeout(drawNext)); // a turn for what the reader does, and on
  };
  addEventListener("load", () => idle(drawNext));
  addEventListener("beforeprint", () => plots.forEach(draw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    [...drawn.keys()].forEach((plot) => Plotly.relayout(plot, themed(JSON.parse(document.getElementById(plot.dataset.figure).textContent).layout))));

  // An arm switched off in a legend leaves every figure of its group.
  const off = {};
  const hideArms = (plot) => {
    const hidden = off[plot.dataset.group];
    if (!hidden || !plot.data) return;
    Plotly.restyle(plot, { visible: plot.data.map((trace) => !hidden.has(trace.legendgroup)) });
  };
  document.querySelectorAll(".legend button").forEach((button) => button.addEventListener("click", () => {
    const { group, arm } = button.dataset;
    off[group] = off[group] || new Set();
    const hide = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!hide));
    off[group][hide ? "add" : "delete"](arm);
    plots.filter((plot) => plot.dataset.group === group && drawn.has(plot)).forEach(hideArms);
  }));

  document.querySelectorAll("button.wider").forEach((button) => button.addEventListener("click", () => {
    const wide = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(wide));
    button.parentElement.querySelectorAll(".pictures").forEach((grid) => grid.classList.toggle("wide", wide));
  }));

  document.querySelectorAll(".copy button").forEach((button) => button.addEventListener("click", async () => {
    const text = button.parentElement.querySelector("pre").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("pre"));
      button.textContent = "Selected: press Ctrl-C";
    }
  }));
})();
