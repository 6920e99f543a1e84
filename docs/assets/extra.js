// What the theme leaves out for those who use no mouse or see no page.
document$.subscribe(() => {
  // Wide tables scroll in a box that the theme makes: the keyboard must reach it, too.
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap")) box.tabIndex = 0;
  // The theme puts the copy button of each code block in a nav: dozens of landmarks without a name that lead nowhere.
  for (const box of document.querySelectorAll(".md-code__nav")) box.setAttribute("role", "none");
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
});
