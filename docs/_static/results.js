// Tables of the class "sortable" are sorted by a click on a heading; one field filters their rows.
// Numbers sort as numbers, empty cells come last.
document.addEventListener("DOMContentLoaded", () => {
  const tables = [...document.querySelectorAll("table.sortable")];
  if (!tables.length) return;
  const text = (row, column) => row.cells[column].textContent.trim();
  const compare = (a, b) => {
    if (!a || !b) return !a - !b;
    const numbers = [Number(a), Number(b)];
    return numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
  };
  for (const table of tables) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.textContent = head.textContent.trim();
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const sign = head.ariaSort === "ascending" ? -1 : 1;
        for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
        head.ariaSort = sign > 0 ? "ascending" : "descending";
        const filled = [...body.rows].filter((row) => text(row, column));
        const empty = [...body.rows].filter((row) => !text(row, column));
        filled.sort((a, b) => sign * compare(text(a, column), text(b, column)));
        body.append(...filled, ...empty);
      });
    });
  }
  const field = document.createElement("input");
  field.type = "search";
  field.className = "results-filter";
  field.placeholder = "Show rows with these words, such as: LETKF lorenz96";
  field.setAttribute("aria-label", "Filter of the rows of all tables");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const table of tables) {
      const section = table.closest("section");
      const about = section.querySelector("h2").textContent.toLowerCase();
      for (const row of table.tBodies[0].rows) {
        const all = about + " " + row.textContent.toLowerCase();
        row.hidden = !words.every((word) => all.includes(word));
      }
      section.hidden = [...table.tBodies[0].rows].every((row) => row.hidden);
    }
  });
  tables[0].closest("section").before(field);
});
