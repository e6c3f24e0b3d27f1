"use strict";
(() => {
  // Sorting: a header button turns its column; cells without a value stay last in both directions.
  const key = (row, column) => {
    const raw = row.cells[column].dataset.value;
    if (raw === undefined || raw === "") return null;
    const number = Number(raw);
    return Number.isNaN(number) ? raw.toLowerCase() : number;
  };
  const sort = (header) => {
    const table = header.closest("table");
    const body = table.tBodies[0];
    const column = header.cellIndex;
    const turn = header.getAttribute("aria-sort");
    const next = turn ? (turn === "ascending" ? "descending" : "ascending") : header.dataset.first || "ascending";
    const sign = next === "ascending" ? 1 : -1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", next);
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (a < b ? -1 : a > b ? 1 : 0);
    });
    body.append(...rows.map(([, row]) => row));
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }

  // Highlight: a pressed legend entry dims every other arm in every figure.
  const chosen = new Set();
  const legend = [...document.querySelectorAll(".legend button[data-pick]")];
  const show = (arms) => {
    for (const plot of document.querySelectorAll(".plot")) plot.classList.toggle("dim", arms.size > 0);
    for (const part of document.querySelectorAll("[data-arm]")) part.classList.toggle("on", arms.has(part.dataset.arm));
  };
  for (const button of legend) {
    const arm = button.dataset.pick;
    button.addEventListener("click", () => {
      if (!chosen.delete(arm)) chosen.add(arm);
      button.setAttribute("aria-pressed", String(chosen.has(arm)));
      show(chosen);
    });
    button.addEventListener("mouseenter", () => show(new Set([...chosen, arm])));
    button.addEventListener("mouseleave", () => show(chosen));
  }

  // Tooltips: on hover and on focus.
  const tip = document.getElementById("tip");
  const place = (mark) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const at = mark.getBoundingClientRect();
    const left = Math.min(Math.max(4, at.left + at.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 4);
    const above = at.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : at.bottom + 8}px`;
  };
  const hide = () => { tip.hidden = true; };
  for (const mark of document.querySelectorAll("[data-tip]")) {
    mark.addEventListener("mouseenter", () => place(mark));
    mark.addEventListener("focus", () => place(mark));
    mark.addEventListener("mouseleave", hide);
    mark.addEventListener("blur", hide);
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  // Moving the focus may scroll the page: the tip then follows its mark.
  const follow = () => {
    const focused = document.activeElement;
    if (!tip.hidden && focused && focused.dataset.tip) place(focused);
    else hide();
  };
  document.addEventListener("scroll", follow, { passive: true });
})();
