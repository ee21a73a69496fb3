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
    // DataTables takes a cell for HTML unless it is told otherwise.
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
                infoEmpty: "no line fits", infoFiltered: "(of _MAX_)", zeroRecords: "no line fits" },
  });
  filterRow(api, columns.map(([title]) => title));
}
