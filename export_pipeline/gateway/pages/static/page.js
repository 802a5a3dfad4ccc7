// What the pages do beyond plain HTML: times in the reader's zone, a list that stays up to date, an estimate while one
// fills in the form. Everything works without it, but for having to look again.
"use strict";

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const announced = document.getElementById("announced");

function tellTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) time.textContent = clock.format(new Date(time.dateTime));
}

async function fetchPage(url, options) {
  const response = await fetch(url, { ...options, cache: "no-store", credentials: "same-origin" });
  if (response.status === 401) location.reload(); // the session is over: the page then asks for a login
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  tellTimes(page);
  return { response, page };
}

// Makes an element like a fresh one by the smallest changes, so that focus, selection and what is unfolded stay.
function become(kept, fresh) {
  for (const { name } of [...kept.attributes])
    if (!fresh.hasAttribute(name) && !(name === "open" && kept.tagName === "DETAILS")) kept.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (kept.getAttribute(name) !== value) kept.setAttribute(name, value);
  const wanted = [...fresh.childNodes];
  const ids = new Set(wanted.map((node) => node.id).filter(Boolean));
  for (const node of [...kept.childNodes]) if (node.id && !ids.has(node.id)) node.remove();
  let place = kept.firstChild;
  for (const node of wanted) {
    const own = node.id
      ? [...kept.children].find((child) => child.id === node.id)
      : place && !place.id && place.nodeName === node.nodeName && place;
    if (!own) {
      kept.insertBefore(node, place);
      continue;
    }
    if (own === place) place = place.nextSibling;
    else kept.insertBefore(own, place);
    if (own.nodeType !== Node.ELEMENT_NODE) {
      if (own.data !== node.data) own.data = node.data;
    } else if (!own.contains(document.activeElement) || !/^(INPUT|TEXTAREA|SELECT)$/.test(own.tagName)) {
      become(own, node);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function states(root) {
  return new Map([...root.querySelectorAll("[data-state]")].map((item) => [item.id, item.dataset.state]));
}

function keepUpToDate(live) {
  const lost = document.getElementById("connection");
  let failures = 0;

  async function refresh() {
    const focused = document.activeElement?.closest("[data-state]");
    const before = states(live);
    const { response, page } = await fetchPage(live.dataset.live);
    const fresh = page.getElementById("live");
    if (!response.ok || !fresh) throw new Error(String(response.status));
    become(live, fresh);
    const news = [...live.querySelectorAll("[data-state]")]
      .filter((item) => before.has(item.id) && before.get(item.id) !== item.dataset.state)
      .map((item) => `${item.dataset.name}: ${item.dataset.state}.`);
    if (news.length) announced.textContent = news.join(" ");
    // The button that was focused has gone with the state it was for.
    if (focused?.isConnected && document.activeElement === document.body)
      (focused.querySelector("a, button") ?? document.getElementById("main")).focus();
  }

  async function look() {
    if (!document.hidden) {
      try {
        await refresh();
        failures = 0;
      } catch {
        failures += 1;
      }
      lost.hidden = failures < 2;
    }
    if (live.dataset.live) setTimeout(look, Math.min(Number(live.dataset.every) * 2 ** failures, 60) * 1000);
  }

  setTimeout(look, Number(live.dataset.every) * 1000);
}

function estimateWhileTyping(form) {
  const button = form.querySelector("[data-estimate]");
  const place = document.getElementById("estimate");
  const told = document.getElementById("told");
  let asking;

  async function estimate(showProblems) {
    asking?.abort();
    asking = new AbortController();
    place.setAttribute("aria-busy", "true");
    try {
      const body = new URLSearchParams(new FormData(form));
      const { page } = await fetchPage(button.formAction, { method: "POST", body, signal: asking.signal });
      place.replaceChildren(...(page.getElementById("estimate")?.childNodes ?? []));
      const problem = page.getElementById("problem");
      told.replaceChildren(...(problem && showProblems ? [problem] : []));
      if (problem && showProblems) problem.focus();
      place.removeAttribute("aria-busy");
    } catch (error) {
      if (error.name !== "AbortError") place.textContent = "The server does not answer; try again.";
    }
  }

  const hasPerson = () => ["uids", "person"].some((name) => form.elements[name]?.value.trim());
  form.addEventListener("change", () => hasPerson() && form.checkValidity() && estimate(false));
  form.addEventListener("submit", (event) => {
    if (event.submitter !== button) return;
    event.preventDefault();
    estimate(true);
  });
}

tellTimes(document);

const asking = document.getElementById("asking");
if (asking?.querySelector("[data-estimate]")) estimateWhileTyping(asking);

const live = document.getElementById("live");
if (live?.dataset.live) keepUpToDate(live);

document.addEventListener("submit", (event) => {
  const sure = event.target.dataset.sure;
  if (sure && !confirm(sure)) event.preventDefault();
});

for (const field of document.querySelectorAll("[data-absolute]")) field.value = new URL(field.value, location.href).href;

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    const field = document.getElementById(button.dataset.copy);
    field.select();
    await navigator.clipboard.writeText(field.value);
    announced.textContent = "The link is copied.";
  });
}

document.querySelector("[data-focus], #problem")?.focus();

// What was done is told once: not again when the page is loaded anew.
const here = new URL(location.href);
if (here.searchParams.has("said")) {
  here.searchParams.delete("said");
  history.replaceState(history.state, "", here);
}
