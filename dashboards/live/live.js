"use strict";
(() => {
  // Says so when the server no longer answers: what is on the screen may be old then.
  const ask = window.fetch.bind(window);
  window.fetch = (...given) => ask(...given).then(
    (answer) => { delete document.documentElement.dataset.lost; return answer; },
    (error) => { document.documentElement.dataset.lost = "yes"; throw error; },
  );

  // A part that is drawn anew is made of new elements: the keyboard's place, what was unfolded and how far a table was scrolled
  // are carried over to them.
  const section = (node) => (node.closest("section") || {}).id || "";
  const nameOf = (node) => node.id || [node.tagName, section(node), node.getAttribute("href"), node.getAttribute("aria-label")].join("|");
  const unfolded = new Set(), scrolled = new Map();
  let held = null;
  document.addEventListener("focusin", ({ target }) => { held = { node: target, name: nameOf(target) }; });
  document.addEventListener("focusout", ({ target }) => setTimeout(() => {
    if (target.isConnected && held && held.node === target) held = null;
  }));
  document.addEventListener("toggle", ({ target }) => {
    if (target.isConnected) unfolded[target.open ? "add" : "delete"](section(target));
  }, true);
  document.addEventListener("scroll", ({ target }) => {
    if (target.nodeType === 1) scrolled.set(nameOf(target), [target.scrollLeft, target.scrollTop, target]);
  }, true);
  const carryOver = () => {
    document.querySelectorAll("section details:not([open])").forEach((node) => { if (unfolded.has(section(node))) node.open = true; });
    document.querySelectorAll(".scroll").forEach((node) => {
      const was = scrolled.get(nameOf(node));
      if (was && was[2] !== node) { [node.scrollLeft, node.scrollTop] = was; was[2] = node; }
    });
    if (held && !held.node.isConnected && document.activeElement === document.body) {
      const again = [...document.querySelectorAll("a[href], button, input, summary, [tabindex]")].find((node) => nameOf(node) === held.name);
      const main = document.getElementById("main");
      held = null;
      (again || main).focus({ preventScroll: true });
    }
  };

  // A figure that was zoomed or moved stays so when new points come. (Its own `uirevision` forgets it here.)
  const keepZoom = () => {
    if (!window.Plotly || Plotly.keepsZoom) return;
    const { react } = Plotly;
    Plotly.keepsZoom = true;
    Plotly.react = (plot, figure, ...rest) => {
      const layout = { ...(figure.layout || {}) }, before = plot.layout || {};
      for (const axis of ["xaxis", "yaxis"]) {
        const own = layout[axis] || {}, was = before[axis] || {};
        if (was.autorange === false && was.range && !own.range) layout[axis] = { ...own, range: [...was.range], autorange: false };
      }
      return react(plot, { ...figure, layout }, ...rest);
    };
  };

  // The window is named after what it shows.
  const name = () => {
    const heading = document.getElementById("heading"), { study } = document.documentElement.dataset;
    const wanted = heading ? `${heading.textContent} · ${study}` : study;
    if (document.title !== wanted) document.title = wanted;
  };
  new MutationObserver(() => { carryOver(); keepZoom(); name(); }).observe(document.documentElement, { childList: true, subtree: true });
})();
