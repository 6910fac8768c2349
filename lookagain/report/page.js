"use strict";
// Tables sort by a click on a column's head: best first (the lowest where the head has ↓), then the other way round, then as they
// were. A group of rows stays together and is placed by its main row; groups without a number come last.
function figure(group, column) {
  const row = group.querySelector("tr.main") ?? group.rows[0];
  return parseFloat((row.cells[column]?.textContent ?? "").replace("−", "-"));
}

function sorted(groups, column, direction) {
  const sign = direction === "ascending" ? 1 : -1;
  const known = groups.filter((group) => !Number.isNaN(figure(group, column)));
  known.sort((one, other) => sign * (figure(one, column) - figure(other, column)));
  return [...known, ...groups.filter((group) => Number.isNaN(figure(group, column)))];
}

for (const table of document.querySelectorAll("table.sortable")) {
  const written = [...table.tBodies];
  const heads = [...table.tHead.rows[0].cells];
  for (const [column, head] of heads.entries()) {
    if (!head.textContent) continue;
    const turns = head.textContent.includes("↓") ? ["ascending", "descending"] : ["descending", "ascending"];
    const button = document.createElement("button");
    button.title = "sort";
    button.append(...head.childNodes);
    button.addEventListener("click", () => {
      const next = turns[turns.indexOf(head.ariaSort) + 1];
      for (const one of heads) one.ariaSort = null;
      head.ariaSort = next ?? null;
      table.append(...(next ? sorted(written, column, next) : written));
    });
    head.append(button);
  }
}
