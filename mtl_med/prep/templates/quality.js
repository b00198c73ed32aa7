"use strict";
(() => {
  const table = document.getElementById("rows");
  const rows = Array.from(table.tBodies);
  const controls = document.getElementById("controls");
  const find = document.getElementById("find");
  const rule = document.getElementById("rule");
  const noted = document.getElementById("noted");
  const order = document.getElementById("order");
  const buttons = Array.from(document.querySelectorAll(".kinds button"));
  const texts = rows.map((row) => row.textContent.toLowerCase());

  function show() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, index) => {
      const rules = row.dataset.rules.split(" ");
      const fits =
        words.every((word) => texts[index].includes(word)) &&
        (!rule.value || rules.includes(rule.value)) &&
        (!noted.checked || row.dataset.noted !== "0");
      row.hidden = !fits;
      count += fits;
    });
    document.getElementById("shown").textContent = count + " of " + rows.length + " cases";
    buttons.forEach((button) => button.classList.toggle("chosen", button.dataset.rule === rule.value));
  }

  function sort() {
    const names = new Intl.Collator("en", { numeric: true });
    const compare =
      order.value === "id"
        ? (a, b) => names.compare(a.dataset.id, b.dataset.id)
        : (a, b) => a.dataset.place - b.dataset.place;
    table.append(...rows.slice().sort(compare));
  }

  buttons.forEach((button) =>
    button.addEventListener("click", () => {
      rule.value = rule.value === button.dataset.rule ? "" : button.dataset.rule;
      show();
      if (rule.value) document.getElementById("cases").scrollIntoView();
    })
  );
  controls.addEventListener("submit", (event) => event.preventDefault());
  find.addEventListener("input", show);
  rule.addEventListener("change", show);
  noted.addEventListener("change", show);
  order.addEventListener("change", sort);
  controls.hidden = false;
  show();
})();
