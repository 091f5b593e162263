"use strict";
(() => {
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // One look for every figure, from the page's own colours, so that light and dark agree.
  const themed = (layout) => {
    const axis = { gridcolor: style("--grid"), linecolor: style("--line"), tickcolor: style("--line"), automargin: true };
    const merged = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true };
    merged.font = { ...(layout.font || {}), color: style("--ink"), family: "system-ui, sans-serif", size: 12 };
    merged.hoverlabel = { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--ink") }, align: "left" };
    merged.modebar = { bgcolor: "rgba(0,0,0,0)", color: style("--soft"), activecolor: style("--accent") };
    for (const key of Object.keys(layout)) if (/^[xy]axis\d*$/.test(key)) merged[key] = { ...layout[key], ...axis };
    return merged;
  };

  const drawn = new Set();
  const draw = (plot) => {
    if (drawn.has(plot)) return;
    drawn.add(plot);
    const figure = JSON.parse(document.getElementById(plot.dataset.figure).textContent);
    const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
    const image = { format: "svg", filename: plot.dataset.figure };
    Plotly.newPlot(plot, figure.data, themed(figure.layout), {
      responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtons: buttons, toImageButtonOptions: image,
    }).then(() => hideArms(plot));
  };

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
    if (plot) { draw(plot); idle(drawNext); }
  };
  addEventListener("load", () => idle(drawNext));
  addEventListener("beforeprint", () => plots.forEach(draw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    drawn.forEach((plot) => Plotly.relayout(plot, themed(JSON.parse(document.getElementById(plot.dataset.figure).textContent).layout))));

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
