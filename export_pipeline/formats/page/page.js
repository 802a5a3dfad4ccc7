"use strict";
// Without this script the page can be read all the same; it adds searching, sorting and saving. It loads nothing.

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const records = (count) => `${count.toLocaleString("en")} record${count === 1 ? "" : "s"}`;
const collections = all("section.collection");
const stated = Number(document.querySelector("main").dataset.records);

document.documentElement.classList.add("js");
for (const tools of all(".tools")) tools.hidden = false;

// Whole records: the number of a row opens it.

let numbered = 0;
for (const record of all("tbody.record")) {
  const [row, whole] = record.rows;
  const heading = row.cells[0];
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = heading.textContent;
  button.setAttribute("aria-label", `Show record ${heading.textContent} whole`);
  button.setAttribute("aria-expanded", "false");
  whole.id = `record-${++numbered}`;
  button.setAttribute("aria-controls", whole.id);
  heading.replaceChildren(button);
  whole.hidden = true;
  button.addEventListener("click", () => {
    whole.hidden = !whole.hidden;
    whole.querySelector("details").open = !whole.hidden;
    button.setAttribute("aria-expanded", String(!whole.hidden));
  });
}

// Sorting: numbers and times by their value, then text, then what is empty.

const keyOf = (record, column) => {
  const cell = record.rows[0].cells[column];
  if (column === 0) return { rank: 0, number: Number(cell.textContent) };
  if (cell.dataset.key !== undefined) return { rank: 0, number: Number(cell.dataset.key) };
  return cell.classList.contains("nothing") ? { rank: 2 } : { rank: 1, text: cell.textContent };
};
const inWords = new Intl.Collator("en", { numeric: true });
const compare = (a, b) =>
  a.rank - b.rank || (a.rank === 0 ? a.number - b.number : a.rank === 1 ? inWords.compare(a.text, b.text) : 0);

function sort(heading) {
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const table = heading.closest("table");
  const keyed = [...table.tBodies].map((record) => ({ record, key: keyOf(record, heading.cellIndex) }));
  // What is empty stays last in both directions.
  keyed.sort((a, b) => (down && a.key.rank < 2 && b.key.rank < 2 ? compare(b.key, a.key) : compare(a.key, b.key)));
  table.append(...keyed.map(({ record }) => record));
}

for (const heading of all(".collection thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  button.addEventListener("click", () => sort(heading));
  heading.append(button);
}

// Searching: every word must be somewhere in the record, whatever the case and the accents.

const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const words = (input) => plain(input.value).split(/\s+/).filter(Boolean);
const texts = new WeakMap();
function textOf(record) {
  if (!texts.has(record)) {
    const parts = [...all("td", record.rows[0]), ...all("pre", record.rows[1])];
    texts.set(record, plain(parts.map((part) => part.textContent).join(" ")));
  }
  return texts.get(record);
}

const everywhere = document.getElementById("search");
function search() {
  const wanted = words(everywhere);
  let total = 0;
  let shown = 0;
  for (const collection of collections) {
    const own = [...wanted, ...words(collection.querySelector("input[type=search]"))];
    const table = all("tbody.record", collection);
    let matching = 0;
    for (const record of table) {
      record.hidden = !own.every((word) => textOf(record).includes(word));
      matching += record.hidden ? 0 : 1;
    }
    collection.querySelector(".found").textContent = own.length ? `${matching} of the ${table.length} shown match` : "";
    collection.hidden = wanted.length > 0 && matching === 0;
    if (wanted.length > 0 && matching > 0) collection.querySelector("details").open = true;
    total += table.length;
    shown += matching;
  }
  const rest = stated > total ? `, of ${records(stated)} in all` : "";
  document.getElementById("found").textContent = wanted.length ? `${shown} of the ${total} in the tables match${rest}` : "";
}

let soon;
for (const input of all("input[type=search]")) {
  input.addEventListener("input", () => {
    clearTimeout(soon);
    soon = setTimeout(search, 120);
  });
}

// Opening and closing

const opener = document.getElementById("open");
opener?.addEventListener("click", () => {
  const open = opener.textContent === "Open all";
  for (const collection of collections) collection.querySelector("details").open = open;
  opener.textContent = open ? "Close all" : "Open all";
});

function openLinked() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = target && target.closest("details");
  if (details) {
    details.open = true;
    target.closest("section").scrollIntoView();
  }
}
addEventListener("hashchange", openLinked);
openLinked();

let closed = [];
addEventListener("beforeprint", () => {
  closed = all(".collection > details:not([open])");
  for (const details of closed) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of closed) details.open = false;
});

// Saving: the blocks beneath the tables are unpacked one by one and become one JSON array.

async function unpacked(block) {
  const packed = Uint8Array.from(atob(block.textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function wholeData() {
  const parts = ["["];
  let count = 0;
  for (const block of all('script[type="application/gzip"]')) {
    const lines = (await unpacked(block)).trimEnd();
    parts.push(new Blob([count ? ",\n" : "\n", lines.replaceAll("\n", ",\n")]));
    count += lines.split("\n").length;
  }
  if (count !== stated) throw new Error(`the page holds ${records(count)}, but should hold ${stated}`);
  return new Blob([...parts, "\n]\n"], { type: "application/json" });
}

const saver = document.getElementById("save");
const said = document.getElementById("saved");
saver.addEventListener("click", async () => {
  saver.disabled = true;
  said.textContent = "Unpacking…";
  try {
    if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old to unpack the data");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await wholeData());
    link.download = "my-data.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    said.textContent = `${records(stated)} saved as my-data.json.`;
  } catch (problem) {
    said.textContent = `Not saved: ${problem.message}.`;
  }
  saver.disabled = false;
});
