// The arrows of the navigation, which the theme leaves without words, say whose pages they show.
document.querySelectorAll(".bd-sidebar summary").forEach((arrow) => {
  const link = arrow.closest("li").querySelector("a");
  arrow.setAttribute("aria-label", `Pages of ${link.textContent.trim()}`);
});
// A table that is wider than the page is scrolled by keys too.
const scrolled = () =>
  document.querySelectorAll(".bd-article table").forEach((table) => {
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
  });
scrolled();
addEventListener("resize", scrolled);
