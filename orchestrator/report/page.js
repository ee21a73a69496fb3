// Each table of class "grid" becomes one that sorts and filters. Its columns and lines stand as JSON in the element
// that data-source names. A cell sorts by its value, and is shown and searched as people read it.
const number = (value) => value.toLocaleString("en-US");
const formats = {
  whole: number,
  density: (value) => String(Number(value.toPrecision(4))),
  ratio: (value) => (value < 99.95 ? value.toFixed(1) : value.toFixed(0)) + "x",
  percent: (value) => (100 * value).toFixed(2),
  points: (value) => (value > 0 ? "+" : "") + (100 * value).toFixed(2),
  number: (value) => value.toPrecision(4),
  difference: (value, decimals) => (value > 0 ? "+" : "") + value.toFixed(decimals),
  seconds: (value) => number(Number(value.toFixed(1))),
  size: (value) => {
    const units = ["B", "kB", "MB", "GB"];
    let power = 0;
    while (value >= 999.5 && power < 3) [value, power] = [value / 1000, power + 1];
    return (power ? value.toPrecision(3) : value) + " " + units[power];
  },
};

function column([title, kind], index) {
  if (kind === "text") {
    // Without this, DataTables would read a cell as HTML.
    return { title, data: index, type: "string", render: jQuery.fn.dataTable.render.text() };
  }
  const [format, option] = kind.split(" "); // "difference 3" has three decimals
  const shown = (value, purpose) =>
    purpose === "display" || purpose === "filter" ? (value === null ? "" : formats[format](value, option)) : value;
  return { title, data: index, type: "num", className: "number", render: shown };
}

function filterRow(api, titles) {
  const row = document.createElement("tr");
  row.className = "filters";
  for (const [index, title] of titles.entries()) {
    const field = document.createElement("input");
    field.type = "search";
    field.placeholder = "filter";
    field.setAttribute("aria-label", "filter " + title);
    field.addEventListener("input", () => api.column(index).search(field.value).draw());
    row.append(document.createElement("th"));
    row.lastChild.append(field);
  }
  api.table().header().append(row);
}

for (const element of document.querySelectorAll("table.grid")) {
  const { columns, lines } = JSON.parse(document.getElementById(element.dataset.source).textContent);
  const api = jQuery(element).DataTable({
    data: lines,
    columns: columns.map(column),
    order: [],
    autoWidth: false,
    pageLength: 25,
    lengthMenu: [10, 25, 100, 500],
    layout: { topStart: "search", topEnd: "pageLength", bottomStart: "info", bottomEnd: "paging" },
    language: { search: "Filter", lengthMenu: "_MENU_ lines", info: "_START_ to _END_ of _TOTAL_",
                infoEmpty: "no matching line", infoFiltered: "(of _MAX_)", zeroRecords: "no matching line" },
  });
  filterRow(api, columns.map(([title]) => title));
  const [box, name] = [element.closest(".dt-layout-row"), element.caption.textContent + ", " + element.dataset.source];
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", name);
  api.table().container().querySelector("nav")?.setAttribute("aria-label", "Pages of: " + name);
}

// The points of a picture have titles. Below it is shown the title of the point that the reader points at, touches, or
// reaches with the arrow keys.
const REACH = 24; // pixels from the finger to the edge of a point
for (const chart of document.querySelectorAll(".chart")) {
  const points = Array.from(chart.querySelectorAll("title"), (title) => [title.parentNode, title.textContent]);
  if (points.length) readable(chart, points);
}

function readable(chart, points) {
  const reading = document.createElement("output");
  reading.className = "reading";
  reading.textContent = "Touch a point, or use the arrow keys here, to read its values.";
  chart.after(reading);
  chart.tabIndex = 0;
  chart.setAttribute("role", "group");
  chart.setAttribute("aria-label", "Values of: " + chart.firstElementChild.getAttribute("aria-label"));
  let place = -1;
  function show(next) {
    if (place >= 0) points[place][0].classList.remove("shown");
    place = next;
    points[place][0].classList.add("shown");
    reading.textContent = points[place][1];
  }
  function near(event) {
    let [best, shortest] = [-1, REACH];
    for (const [index, [point]] of points.entries()) {
      const box = point.getBoundingClientRect();
      const x = Math.max(box.left - event.clientX, event.clientX - box.right, 0);
      const y = Math.max(box.top - event.clientY, event.clientY - box.bottom, 0);
      const distance = Math.hypot(x, y);
      if (distance < shortest) [best, shortest] = [index, distance];
    }
    if (best >= 0 && best !== place) show(best);
  }
  chart.addEventListener("pointermove", near);
  chart.addEventListener("pointerdown", near);
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(place < 0 && step < 0 ? points.length - 1 : (place + step + points.length) % points.length);
  });
}

for (const command of document.querySelectorAll(".command")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const text = command.querySelector("code");
    getSelection().selectAllChildren(text); // to copy by hand where the browser allows no other way
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
    }
  });
  command.append(button);
}
