"use strict";
(() => {
  const names = new Intl.Collator("en", { numeric: true });

  function value(row, column) {
    const cell = row.cells[column];
    const number = Number.parseFloat(cell.dataset.value);
    return Number.isNaN(number) ? null : number;
  }

  function sort(table, column, descending) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const numeric = rows.some((row) => value(row, column) !== null);
    rows.sort((a, b) => {
      if (!numeric) {
        const order = names.compare(a.cells[column].textContent, b.cells[column].textContent);
        return descending ? -order : order;
      }
      const [left, right] = [value(a, column), value(b, column)];
      if (left === null || right === null) return (left === null) - (right === null);
      return descending ? right - left : left - right;
    });
    body.append(...rows);
  }

  function makeSortable(table) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(table, column, descending);
        table.dispatchEvent(new Event("sorted"));
      });
    });
  }

  function makeShort(table) {
    const most = Number.parseInt(table.dataset.shown, 10);
    const all = table.tBodies[0].rows.length;
    if (all <= most) return;
    const controls = document.createElement("div");
    controls.className = "controls";
    const label = document.createElement("label");
    label.textContent = "Find ";
    const find = document.createElement("input");
    find.type = "search";
    label.append(find);
    const more = document.createElement("button");
    more.type = "button";
    more.className = "more";
    const count = document.createElement("output");
    controls.append(label, more, count);
    table.closest(".scroll").before(controls);
    let open = false;
    function show() {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      Array.from(table.tBodies[0].rows).forEach((row) => {
        const fits = words.every((word) => row.textContent.toLowerCase().includes(word));
        row.hidden = !fits || (!open && !words.length && shown >= most);
        shown += !row.hidden;
      });
      more.textContent = open ? "Show the first " + most : "Show all " + all;
      more.setAttribute("aria-expanded", String(open));
      count.textContent = shown + " of " + all;
    }
    more.addEventListener("click", () => {
      open = !open;
      show();
    });
    find.addEventListener("input", show);
    table.addEventListener("sorted", show);
    show();
  }

  function openTarget() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const closed = [target.querySelector(":scope > details.case"), target.closest("details")].filter((item) => item);
    closed.forEach((item) => (item.open = true));
    if (closed.length) target.scrollIntoView();
  }

  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll("table[data-shown]").forEach(makeShort);
  window.addEventListener("hashchange", openTarget);
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((item) => (item.open = true)));
  openTarget();
})();
