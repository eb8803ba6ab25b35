// A table whose column heads sort it. For any cell that shows a table: tag it `play-table`.
play.table = (() => {
  "use strict";

  /** What a cell is sorted by: the number that its text begins with, else its words; null when there is nothing. */
  function key(text) {
    const plain = text.trim().replace("−", "-").replace(/(\d),(?=\d{3})/g, "$1");
    if (["", "-", "–", "—"].includes(plain)) return null;
    const found = /^-?\d+(\.\d+)?(e[-+]?\d+)?/i.exec(plain);
    return found ? Number(found[0]) : plain.toLowerCase();
  }

  /** The order of the rows by one column's keys: numbers before words, nothing always last, ties as they were. */
  function order(keys, descending = false) {
    const rank = (value) => (value === null ? 2 : typeof value === "number" ? 0 : 1);
    const compare = (a, b) => {
      if (a === null || b === null) return rank(a) - rank(b);
      const ahead = rank(a) - rank(b) || (typeof a === "number" ? a - b : a.localeCompare(b));
      return descending ? -ahead : ahead;
    };
    return keys.map((_, row) => row).sort((a, b) => compare(keys[a], keys[b]) || a - b);
  }

  return { key, order };
})();

play.register("table", async (box, options, still) => {
  await play.load("play/plot.js");
  const { key, order } = play.table;
  const { make, says } = play.plot;
  box.setAttribute("aria-label", "A table to sort");
  box.append(
    make(
      "style",
      {},
      `.play-table { padding: .5rem; }
       .play-table table { margin: 0; }
       .play-box.play-table th button { background: none; border: 0; color: inherit; cursor: pointer; font: inherit;
         min-height: 2rem; padding: 0 .1rem; text-align: inherit; }
       .play-table th button:hover { text-decoration: underline; }
       .play-table th span { color: var(--pst-color-text-muted); display: inline-block; width: 1.1em; }
       .play-table th[aria-sort] span { color: inherit; }
       @media (max-width: 767px) { .play-table td:last-child:not([style]) { min-width: 15rem; } }`
    )
  );
  const table = still.querySelector("table").cloneNode(true);
  table.querySelectorAll("img").forEach((image) => image.removeAttribute("loading"));
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const words = says();

  function sort(column, descending) {
    const keys = rows.map((row) => key(row.cells[column].textContent));
    body.append(...order(keys, descending).map((row) => rows[row]));
    heads.forEach((head, index) => {
      const mark = head.querySelector("span");
      if (mark) mark.textContent = index !== column ? "↕" : descending ? "▼" : "▲";
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const name = heads[column].querySelector("button").firstChild.textContent.trim();
    words.text = `Sorted by ${name}, ${descending ? "largest" : "smallest"} first. Press a column's name to sort by it.`;
  }

  heads.forEach((head, column) => {
    const name = head.textContent.trim();
    if (!name || rows.every((row) => key(row.cells[column].textContent) === null)) return;
    const button = make("button", { type: "button" }, `${name} `, make("span", { "aria-hidden": "true" }, "↕"));
    button.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") === "ascending"));
    head.replaceChildren(button);
  });
  words.text = "Press a column's name to sort by it.";
  box.append(table, words.element);
});
