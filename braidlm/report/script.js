"use strict";
(() => {
  // Sorting: a header button turns its column; cells without a value stay last in both directions.
  // A column of numbers is sorted as numbers; words, also with numbers in them, as a reader would.
  const words = new Intl.Collator("en", { numeric: true });
  const raw = (row, column) => row.cells[column].dataset.value || null;
  const order = (values) =>
    values.every((value) => value === null || !Number.isNaN(Number(value)))
      ? (a, b) => Number(a) - Number(b)
      : (a, b) => words.compare(a, b);
  const sort = (header) => {
    const table = header.closest("table");
    const body = table.tBodies[0];
    const column = header.cellIndex;
    const turn = header.getAttribute("aria-sort");
    const next = turn ? (turn === "ascending" ? "descending" : "ascending") : header.dataset.first || "ascending";
    const sign = next === "ascending" ? 1 : -1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", next);
    const rows = [...body.rows].map((row) => [raw(row, column), row]);
    const compare = order(rows.map(([value]) => value));
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * compare(a, b);
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
  // One listener for all: a listener of its own would make every mark a stop of the Tab key.
  const told = (event) => (event.target instanceof Element ? event.target.closest("[data-tip]") : null);
  for (const [begin, end] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
    document.addEventListener(begin, (event) => { const mark = told(event); if (mark) place(mark); });
    document.addEventListener(end, (event) => { if (told(event)) hide(); });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  // Moving the focus may scroll the page: the tip then follows its mark.
  const follow = () => {
    const focused = document.activeElement;
    if (!tip.hidden && focused && focused.dataset.tip) place(focused);
    else hide();
  };
  document.addEventListener("scroll", follow, { passive: true });

  // What takes the focus or is jumped to must not come to lie under the legend that stays in sight.
  const pinned = document.querySelector(".legend.pinned");
  const clear = () => {
    const isPinned = pinned && getComputedStyle(pinned).position === "sticky";
    document.documentElement.style.scrollPaddingTop = isPinned ? `${pinned.offsetHeight + 8}px` : "";
  };
  addEventListener("resize", clear);
  clear();
})();
