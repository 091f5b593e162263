// The theme's dialog of search has no name, and wide tables scroll without a keyboard: both are mended here.
document.querySelector(".md-search[role=dialog]")?.setAttribute("aria-label", "Search");
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
function mend() {
  for (const scrolls of document.querySelectorAll(".md-typeset__table, .md-typeset pre > code, .md-sidebar__scrollwrap")) scrolls.tabIndex = 0;
}
mend();
