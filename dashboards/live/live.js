"use strict";
(() => {
  // Says so when the server no longer answers: what is on the screen may be old then.
  const ask = window.fetch.bind(window);
  window.fetch = (...given) => ask(...given).then(
    (answer) => { delete document.documentElement.dataset.lost; return answer; },
    (error) => { document.documentElement.dataset.lost = "yes"; throw error; },
  );
  // The window is named after what it shows.
  const name = () => {
    const heading = document.querySelector("h1");
    const study = document.documentElement.dataset.study || "";
    const wanted = heading ? `${heading.textContent} · ${study}` : study;
    if (wanted && document.title !== wanted) document.title = wanted;
  };
  new MutationObserver(name).observe(document.documentElement, { childList: true, subtree: true, characterData: true });
})();
