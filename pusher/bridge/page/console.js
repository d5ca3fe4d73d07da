// The console: asks the bridge for its state every second and shows it. Whatever comes from a
// message is put into the page as text nodes only, never as markup.

const ROUND_MS = 1000;
const OBJECTS_PAGE = 20;
const ERRORS_PAGE = 8;
const TYPES = { CONTACT: "Contacts", PRODUCT: "Products", DEAL: "Deals", LINE_ITEM: "Line items" };
const ERROR_TYPES = [
  "INACTIVE_PORTAL", "INVALID_ASSOCIATION_PROPERTY", "INVALID_DEAL_STAGE",
  "INVALID_EMAIL_ADDRESS", "INVALID_ENUM_PROPERTY", "MISSING_REQUIRED_PROPERTY",
  "NO_MAPPINGS_DEFINED", "NO_PROPERTIES_DEFINED", "NO_SYNC_SETTINGS", "SETTINGS_NOT_ENABLED",
  "UNKNOWN_ERROR",
];
const ACTIVE_IMPORTS = { CALLING: "Asking for counts", RECEIVING: "Receiving", PROCESSING: "Processing" };
const ENDED_IMPORTS = { DONE: "Done", FAILED: "Failed", CANCELLED: "Cancelled" };
// What names an object to a person, in the order in which one is looked for.
const TITLES = ["name", "dealname", "email", "firstname"];

const byId = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

let credential = null; // { kind, secret }: in memory only.
const view = { type: "CONTACT", cursors: [null], errorOffset: 0 };
let before = { atMs: 0, types: null }; // The counts of the round before, for rates.
const shown = { objects: "", errors: "" }; // What the lists were made from.
const turns = { objects: 0, errors: 0 }; // A slow answer must not replace that of a later question.

class Refused extends Error {}

async function ask(path, parameters = {}, options = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== "" && value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  const headers = new Headers(options.headers);
  if (credential?.kind === "token") headers.set("Authorization", `Bearer ${credential.secret}`);
  if (credential?.kind === "key") url.searchParams.set("hapikey", credential.secret);
  const answer = await fetch(url, { ...options, headers, credentials: "omit", cache: "no-store" });
  const body = answer.status === 204 ? null : await answer.json();
  if (answer.status === 401 || answer.status === 403) throw new Refused(body.message);
  if (!answer.ok) throw new Error(body?.message ?? `HTTP ${answer.status}`);
  return body;
}

// An element with a class and children; strings become text nodes.
function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Make a list show `items`. What has not changed stays, and with it focus and open details.
function fill(list, items, keyOf, build) {
  const old = new Map([...list.children].map((row) => [row.dataset.key, row]));
  const rows = items.map((item) => {
    const key = keyOf(item);
    const text = JSON.stringify(item);
    const known = old.get(key);
    if (known?.madeFrom === text) return known;
    const row = build(item);
    row.dataset.key = key;
    row.madeFrom = text;
    const [opened, details] = [known?.querySelector("details"), row.querySelector("details")];
    if (opened && details) details.open = opened.open;
    if (known?.contains(document.activeElement)) row.takesFocus = true;
    return row;
  });
  rows.forEach((row, index) => {
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
  });
  while (list.children.length > rows.length) list.lastChild.remove();
  for (const row of rows.filter((each) => each.takesFocus)) {
    row.takesFocus = false;
    row.querySelector("summary, button:not(:disabled)")?.focus();
  }
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function when(ms) {
  if (ms === null || ms === undefined) return "never";
  const at = new Date(ms);
  // A message may say a time that is no date: up to 2^63-1, where dates end at 8.64e15.
  return Number.isNaN(at.getTime()) ? String(ms) : day.format(at);
}

function duration(ms) {
  if (ms < 1000) return `${ms} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${(ms / 60_000).toFixed(1)} min`;
  return `${(ms / 3_600_000).toFixed(1)} h`;
}

// Counts per type.

function makeTypes() {
  for (const [type, name] of Object.entries(TYPES)) {
    const card = make(
      "button", "type",
      make("span", "name", name), make("span", "count", "–"), make("span", "small queue", ""),
      make("span", "small rate", ""), make("span", "small errors", ""),
    );
    card.type = "button";
    card.dataset.type = type;
    card.addEventListener("click", () => {
      view.type = type;
      view.cursors = [null];
      markType();
      run(showObjects);
    });
    byId("types").append(card);
  }
  markType();
}

function markType() {
  for (const card of byId("types").children) {
    card.setAttribute("aria-pressed", String(card.dataset.type === view.type));
  }
}

function showTypes(types) {
  const nowMs = performance.now();
  for (const card of byId("types").children) {
    const of = types[card.dataset.type];
    const part = (name) => card.querySelector(`.${name}`);
    const past = before.types?.[card.dataset.type].processed ?? of.processed;
    const rate = ((of.processed - past) * 1000) / Math.max(1, nowMs - before.atMs);
    setText(part("count"), count.format(of.objects));
    const queue = `${count.format(of.queued)} queued, lag ${duration(of.lagMs)}`;
    setText(part("queue"), of.queued ? queue : "Queue empty");
    const total = `${count.format(of.processed)} processed`;
    setText(part("rate"), rate >= 1 ? `${total}, ${count.format(Math.round(rate))}/s` : total);
    const errors = `${count.format(of.openErrors)} open ${of.openErrors === 1 ? "error" : "errors"}`;
    setText(part("errors"), errors);
    part("errors").dataset.some = of.openErrors ? "yes" : "no";
  }
  before = { atMs: nowMs, types };
}

// Objects.

function facts(pairs) {
  const list = make("dl", "facts");
  for (const pair of pairs) {
    if (pair === null) {
      list.append(make("div", "rule"));
      continue;
    }
    list.append(make("dt", "", pair[0]), make("dd", "", String(pair[1])));
  }
  return list;
}

function objectRow(object) {
  const properties = object.properties;
  const title = TITLES.map((name) => properties[name]).find((value) => value) ?? "";
  const targets = Object.entries(object.associations).map(([type, others]) => [
    `→ ${type}`,
    others.map((other) => `${other.externalObjectId} (${other.hubspotId})`).join(", ") || "none",
  ]);
  const mapped = Object.entries(properties).sort(([one], [other]) => (one < other ? -1 : 1));
  const summary = make(
    "summary", "",
    make("span", "mono", object.externalObjectId),
    make("span", "title", title),
    object.isTombstone ? make("span", "tag", "no longer synced") : null,
    object.hubspotId === null ? make("span", "tag bad", "not created") : null,
    make("span", "aside", object.storeId),
  );
  return make("li", "", make(
    "details", "", summary,
    facts([
      ["HubSpot id", object.hubspotId ?? "none"],
      ["Changed", when(object.changedAt)],
      ["Last processed", when(object.lastProcessedAt)],
      ...targets,
      ...(mapped.length ? [null] : []),
      ...mapped,
    ]),
  ));
}

async function showObjects() {
  const turn = ++turns.objects;
  const page = await ask(`/_bridge/objects/${view.type}`, {
    limit: OBJECTS_PAGE,
    storeId: byId("store").value,
    prefix: byId("prefix").value.trim(),
    after: view.cursors.at(-1),
  });
  if (turn !== turns.objects) return;
  fill(
    byId("objects"), page.results,
    (object) => JSON.stringify([object.objectType, object.storeId, object.externalObjectId]),
    objectRow,
  );
  setText(byId("objects-title"), `Objects: ${TYPES[view.type]}`);
  const isEmpty = page.results.length === 0;
  const isFiltered = byId("store").value || byId("prefix").value.trim();
  setText(byId("no-objects"), isFiltered ? "Nothing is found." : "Nothing has been synced yet.");
  byId("no-objects").hidden = !isEmpty;
  view.next = page.paging?.next.after ?? null;
  const number = view.cursors.length;
  byId("object-pages").hidden = number === 1 && view.next === null;
  byId("objects-back").disabled = number === 1;
  byId("objects-on").disabled = view.next === null;
  setText(byId("objects-page"), `Page ${number}`);
}

// Errors.

function errorRow(error) {
  const summary = make(
    "summary", "",
    make("span", "mono title", error.externalObjectId),
    make("span", "tag bad", error.type),
  );
  return make("li", "", make(
    "details", "", summary,
    facts([
      ["Object type", error.objectType],
      ["Store", error.storeId],
      ["Failed", when(error.erroredAt)],
      ["Changed", when(error.changedAt)],
    ]),
  ), make("p", "details", error.details));
}

async function showErrors() {
  const turn = ++turns.errors;
  const page = await ask("/_bridge/errors", {
    limit: ERRORS_PAGE,
    offset: view.errorOffset,
    errorType: byId("error-type").value,
  });
  if (turn !== turns.errors) return;
  fill(
    byId("errors"), page.results,
    (error) => JSON.stringify([error.objectType, error.storeId, error.externalObjectId]),
    errorRow,
  );
  byId("no-errors").hidden = page.results.length > 0;
  byId("error-pages").hidden = view.errorOffset === 0 && !page.hasMore;
  byId("errors-back").disabled = view.errorOffset === 0;
  byId("errors-on").disabled = !page.hasMore;
  setText(byId("errors-page"), `Page ${view.errorOffset / ERRORS_PAGE + 1}`);
}

// Stores and their imports.

function importView(one) {
  const isActive = one.state in ACTIVE_IMPORTS;
  const isReceiving = one.state === "CALLING" || one.state === "RECEIVING";
  const state = ACTIVE_IMPORTS[one.state] ?? ENDED_IMPORTS[one.state] ?? one.state;
  const bars = make("div", "bars");
  for (const [type, of] of Object.entries(one.types)) {
    const total = Math.max(of.expected ?? 0, of.received);
    const done = isReceiving ? of.received : of.processed;
    const bar = document.createElement("progress");
    bar.max = total || 1;
    // A type without objects is complete when nothing of it is awaited any more.
    bar.value = total ? done : Number(one.state === "DONE");
    bar.setAttribute("aria-label", `${TYPES[type] ?? type}: ${isReceiving ? "received" : "processed"}`);
    bars.append(
      make("span", "", TYPES[type] ?? type), bar,
      make("span", "", `${count.format(done)} / ${count.format(total)}`),
    );
  }
  const detail = one.error ?? one.detail;
  return make(
    "div", "import",
    make(
      "p", "",
      make("span", `tag${one.state === "FAILED" ? " bad" : ""}`, state),
      make("span", "muted", `${isActive ? "since" : "started"} ${when(one.importStartedAt)}`),
    ),
    one.state === "FAILED" || one.state === "CANCELLED" ? null : bars,
    detail ? make("p", "fault", detail) : null,
  );
}

function storeRow({ store, latest }) {
  const button = make("button", "", "Continue importing");
  button.type = "button";
  button.disabled = Boolean(latest && latest.state in ACTIVE_IMPORTS);
  button.setAttribute("aria-label", `Continue importing store ${store.id}`);
  button.addEventListener("click", () => run(() => startImport(store.id, button)));
  const name = make(
    "div", "",
    make("p", "label", store.label),
    make("p", "muted mono", store.id),
    // Text and no link: where it leads was written by whoever made the store.
    store.adminUri ? make("p", "muted", store.adminUri) : null,
  );
  return make("li", "", make("div", "store", name, button), latest ? importView(latest) : null);
}

function showStores(stores, imports) {
  const rows = stores.map((store) => ({
    store,
    latest: imports.find((one) => one.storeId === store.id) ?? null, // Newest first.
  }));
  fill(byId("stores"), rows, (row) => row.store.id, storeRow);
  const select = byId("store");
  const known = [...select.options].slice(1).map((option) => option.value);
  if (known.join("\n") === stores.map((store) => store.id).join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...stores.map((store) => {
    const option = make("option", "", store.id);
    option.value = store.id;
    return option;
  }));
  select.value = stores.some((store) => store.id === chosen) ? chosen : "";
}

async function startImport(storeId, button) {
  button.disabled = true;
  setText(byId("import-problem"), "");
  try {
    await ask("/_bridge/imports", {}, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ storeId }),
    });
    await round();
  } catch (error) {
    button.disabled = false;
    if (error instanceof Refused) throw error;
    setText(byId("import-problem"), `${storeId}: ${error.message}`);
  }
}

// The rounds.

async function round() {
  const [overview, imports] = await Promise.all([ask("/_bridge/overview"), ask("/_bridge/imports", { limit: 100 })]);
  byId("unlock").hidden = true;
  byId("console").hidden = false;
  setText(byId("account"), `Portal ${overview.portalId}${overview.active ? "" : ", not active"}`);
  showTypes(overview.types);
  showStores(overview.stores, imports.results);
  // The lists are asked for only when something was processed since.
  const all = Object.values(overview.types);
  const of = overview.types[view.type];
  const objects = JSON.stringify([view.type, of.processed]);
  const errors = JSON.stringify(all.map((each) => [each.processed, each.openErrors]));
  const lists = [];
  if (objects !== shown.objects) lists.push(showObjects().then(() => { shown.objects = objects; }));
  if (errors !== shown.errors) lists.push(showErrors().then(() => { shown.errors = errors; }));
  // One that fails does not keep the other from being shown.
  const failed = (await Promise.allSettled(lists)).find((list) => list.status === "rejected");
  if (failed) throw failed.reason;
}

function showLive(state, text) {
  byId("live").dataset.state = state;
  setText(byId("live"), text);
}

function askForCredential(problem) {
  credential = null;
  byId("console").hidden = true;
  byId("unlock").hidden = false;
  setText(byId("refused"), problem);
  showLive("waiting", "Locked");
  byId("secret").focus();
}

// Do something that asks the bridge; true when it answered.
async function run(work) {
  try {
    await work();
    showLive("live", "Live");
    return true;
  } catch (error) {
    if (error instanceof Refused) askForCredential(credential ? error.message : "");
    else showLive("lost", `No good answer, trying again: ${error.message}`);
    return false;
  }
}

let timer = 0;

async function keepGoing() {
  clearTimeout(timer);
  if (document.hidden || !byId("unlock").hidden) return;
  await run(round);
  clearTimeout(timer);
  timer = setTimeout(keepGoing, ROUND_MS);
}

function listen() {
  let typing = 0;
  const search = () => {
    view.cursors = [null];
    run(showObjects);
  };
  byId("prefix").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, 200);
  });
  byId("store").addEventListener("change", search);
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  byId("objects-on").addEventListener("click", () => {
    view.cursors.push(view.next);
    run(showObjects);
  });
  byId("objects-back").addEventListener("click", () => {
    view.cursors.pop();
    run(showObjects);
  });
  byId("error-type").addEventListener("change", () => {
    view.errorOffset = 0;
    run(showErrors);
  });
  for (const [id, step] of [["errors-on", ERRORS_PAGE], ["errors-back", -ERRORS_PAGE]]) {
    byId(id).addEventListener("click", () => {
      view.errorOffset += step;
      run(showErrors);
    });
  }
  byId("unlock").addEventListener("submit", async (event) => {
    event.preventDefault();
    credential = { kind: byId("kind").value, secret: byId("secret").value };
    byId("secret").value = "";
    if (await run(round)) keepGoing();
  });
  document.addEventListener("visibilitychange", keepGoing);
}

makeTypes();
for (const type of ERROR_TYPES) byId("error-type").append(make("option", "", type));
listen();
if (document.documentElement.dataset.credentials === "asked") askForCredential("");
else keepGoing();
