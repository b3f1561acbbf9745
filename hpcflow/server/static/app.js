"use strict";

// Text reaches the page by textContent alone: nothing here ever parses HTML.

const KEY = "hpcflow-key";
const FINAL = new Set(["COMPLETED", "FAILED", "CANCELLED"]);
const view = document.getElementById("view");
let shown = 0;
// What the server answered to the last button, and of which dispatch.
let said = { id: "", text: "" };

class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

async function ask(method, path, body) {
  const headers = { "x-hpcflow-key": localStorage.getItem(KEY) ?? "" };
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
  });
  const text = await response.text();
  if (response.ok) return (response.headers.get("content-type") ?? "").includes("json") ? JSON.parse(text) : text;
  let sentence = text;
  try {
    sentence = JSON.parse(text).error;
  } catch {
    // A proxy's own words are better than none.
  }
  throw new Refused(response.status, sentence);
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(child ?? ""))));
  return element;
}

function table(columns, rows) {
  const head = make("tr", {}, ...columns.map((column) => make("th", { scope: "col" }, column)));
  const body = rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))));
  return make("div", { class: "table" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function state(name) {
  return make("span", { class: `state state-${/^\w+$/.test(name) ? name : ""}` }, name);
}

function when(text) {
  if (!text) return "";
  return make("time", { datetime: text, title: text }, new Date(text).toLocaleString());
}

function seconds(from, to) {
  if (!from) return "";
  const total = Math.max(0, (to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000;
  if (total < 60) return `${total.toFixed(1)} s`;
  const minutes = Math.floor(total / 60);
  return minutes < 60 ? `${minutes} min ${Math.floor(total % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function ended(summary) {
  const counts = summary.counts;
  return ["completed", "failed", "cancelled", "skipped"].reduce((sum, name) => sum + (counts[name] ?? 0), 0);
}

function countsText(summary) {
  return Object.entries(summary.counts)
    .filter(([, count]) => count)
    .map(([name, count]) => `${count} ${name}`)
    .join(", ");
}

function show(...elements) {
  view.replaceChildren(...elements);
}

function fault(error) {
  if (error instanceof Refused && error.status === 401) {
    localStorage.removeItem(KEY);
    document.getElementById("logout").hidden = true;
    show(make("h1", {}, "Log in"), make("p", { class: "notice" }, "Run `hpcflow ui` and open the link that it prints."), make("p", { class: "soft" }, error.message));
  } else {
    show(make("p", { class: "notice fault" }, error instanceof Refused ? error.message : "The server does not answer. `hpcflow start` brings it back."));
  }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function list(turn) {
  const before = new URLSearchParams(location.hash.split("?")[1] ?? "").get("before");
  while (turn === shown) {
    const query = before ? `&before=${encodeURIComponent(before)}` : "";
    const { dispatches } = await ask("GET", `/api/v1/dispatches?limit=50${query}`);
    if (turn !== shown) return;
    const rows = dispatches.map((summary) => [
      make("a", { href: `#/${summary.id}` }, summary.name),
      make("span", {}, state(summary.status), summary.paused ? ", paused" : ""),
      `${ended(summary)} of ${summary.tasks}`,
      countsText(summary),
      when(summary.created_at),
      seconds(summary.started_at, summary.ended_at),
    ]);
    show(
      make("h1", {}, "Dispatches"),
      rows.length ? table(["Lattice", "Status", "Ended", "Tasks", "Created", "Took"], rows) : make("p", { class: "soft" }, "Nothing was dispatched yet."),
      dispatches.length === 50 ? make("a", { href: `#/?before=${dispatches.at(-1).id}` }, "Older") : "",
    );
    await pause(document.hidden ? 15000 : 2000);
  }
}

async function failedTasks(id) {
  const { columns, rows } = await ask("GET", `/api/v1/dispatches/${id}/tasks?state=failed&limit=100`);
  const at = (row, name) => row[columns.indexOf(name)];
  return rows.map((row) => [
    make("a", { href: `#/${id}/${at(row, "index")}` }, `${at(row, "index")}`),
    at(row, "name"),
    at(row, "error") ?? "",
    at(row, "host") ?? "",
  ]);
}

function waiting(array) {
  if (!array.why) return array.reason ?? "";
  return make("span", {}, `${array.why} `, make("span", { class: "soft" }, `(${array.reason})`));
}

function tasks(count) {
  return `${count} task${count === 1 ? "" : "s"}`;
}

function buttons(id, summary) {
  const button = (name, verb, body, question) => {
    const element = make("button", { type: "button", onclick: async () => {
      if (question && !confirm(question)) return;
      element.disabled = true;
      try {
        said = { id, text: (await ask("POST", `/api/v1/dispatches/${id}/${verb}`, body)).message };
      } catch (error) {
        if (!(error instanceof Refused) || error.status === 401) return fault(error);
        said = { id, text: error.message };
      }
      await route();
    } }, name);
    return element;
  };
  const { failed = 0, running = 0 } = summary.counts;
  const left = summary.tasks - ended(summary);
  const jobs = summary.arrays.filter((array) => !["ended", "refused"].includes(array.state)).length;
  const found = [];
  if (failed) found.push(button(`Retry ${failed} failed`, "retry", { failed_only: true }));
  if (!FINAL.has(summary.status)) {
    found.push(summary.paused ? button("Resume", "resume") : button("Pause", "pause"));
    found.push(button("Cancel", "cancel", { tasks: null },
      `Cancel ${tasks(left)} of "${summary.name}" (${running} running, ${left - running} waiting) and ${jobs} job${jobs === 1 ? "" : "s"}?`));
  }
  return make("div", { class: "actions" }, ...found);
}

async function detail(turn, id) {
  let summary = await ask("GET", `/api/v1/dispatches/${id}`);
  while (turn === shown) {
    const failed = summary.counts.failed ? await failedTasks(id) : [];
    const usage = FINAL.has(summary.status) ? await ask("GET", `/api/v1/dispatches/${id}/usage`) : null;
    if (turn !== shown) return;
    show(
      make("div", { class: "bar" }, make("h1", {}, summary.name), buttons(id, summary)),
      make("p", {}, state(summary.status), " ", make("span", { class: "id soft" }, summary.id)),
      said.id === id ? make("p", { class: "notice" }, said.text) : "",
      make("progress", { max: summary.tasks || 1, value: ended(summary), "aria-label": "Tasks that have ended" }),
      make("p", {}, `${ended(summary)} of ${tasks(summary.tasks)} ended: ${countsText(summary)}. `,
        make("span", { class: "soft" }, seconds(summary.started_at, summary.ended_at))),
      ...(usage ? usage.sentences.map((sentence) => make("p", {}, sentence)) : []),
      summary.error ? make("p", { class: "notice fault" }, summary.error) : "",
      summary.paused ? make("p", { class: "notice" }, `Paused: ${summary.paused} Go on with \`hpcflow resume ${id}\`.`) : "",
      ...(failed.length ? [make("h2", {}, "Failed tasks"), table(["Task", "Electron", "Error", "Host"], failed)] : []),
      make("h2", {}, "Job arrays"),
      summary.arrays.length
        ? table(["Cluster", "Job", "Width", "State", "Reason"], summary.arrays.map((array) => [array.cluster, array.job_id ?? "", `${array.width}`, state(array.state), waiting(array)]))
        : make("p", { class: "soft" }, "None yet."),
      make("h2", {}, "Messages"),
      make("ul", { class: "plain" }, ...summary.messages.map((message) => make("li", {}, when(message.at), " ", message.text))),
    );
    if (usage) {
      // Jobs end some seconds after the last task, and what they cost is known then.
      if (!usage.open) return;
      await pause(document.hidden ? 30000 : 5000);
      if (turn === shown) summary = await ask("GET", `/api/v1/dispatches/${id}`);
      continue;
    }
    const [next] = await Promise.all([ask("GET", `/api/v1/dispatches/${id}?since=${summary.version}&wait=25`), pause(500)]);
    summary = next;
  }
}

async function task(turn, id, index) {
  const found = await ask("GET", `/api/v1/dispatches/${id}/tasks/${index}`);
  const output = async (name) => (found[`${name}_bytes`] ? ask("GET", `/api/v1/dispatches/${id}/tasks/${index}/${name}?offset=${Math.max(0, found[`${name}_bytes`] - 65536)}`) : "");
  const [stdout, stderr] = await Promise.all([output("stdout"), output("stderr")]);
  if (turn !== shown) return;
  const facts = ["attempt", "cluster", "job_id", "array_index", "host", "wall_s", "cpu_s", "max_rss_kib", "exit_code", "signal", "workdir"]
    .filter((name) => found[name] !== null && found[name] !== undefined)
    .map((name) => [name.replaceAll("_", " "), `${found[name]}`]);
  const block = (title, text) => (text ? [make("h2", {}, title), make("pre", { tabindex: "0" }, text)] : []);
  show(
    make("p", {}, make("a", { href: `#/${id}` }, "Back to the dispatch")),
    make("h1", {}, `${found.name}, task ${found.index}`),
    make("p", {}, state(found.state)),
    found.error ? make("p", { class: "notice fault" }, found.error) : "",
    table(["", ""], facts),
    ...block("Traceback", found.traceback),
    ...block("Standard output", stdout),
    ...block("Standard error", stderr),
  );
}

async function logIn(code) {
  // The code is spent in any case: it must not stay in the history.
  history.replaceState(null, "", "/#/");
  const { key } = await ask("POST", "/login", { code });
  localStorage.setItem(KEY, key);
}

async function route() {
  const turn = ++shown;
  try {
    const fragment = location.hash.slice(1);
    if (fragment && !fragment.startsWith("/")) await logIn(fragment);
    const status = await ask("GET", "/api/v1/status");
    document.getElementById("logout").hidden = false;
    document.getElementById("server").textContent = `${status.home} on ${status.host}`;
    const [, id, index] = location.hash.slice(1).split("?")[0].split("/");
    if (id && !/^[0-9A-Z]{26}$/.test(id)) throw new Refused(404, "There is no such page.");
    if (index !== undefined && !/^\d+$/.test(index)) throw new Refused(404, "There is no such page.");
    if (index !== undefined) await task(turn, id, index);
    else if (id) await detail(turn, id);
    else await list(turn);
  } catch (error) {
    if (turn === shown) fault(error);
  }
}

document.getElementById("logout").addEventListener("click", async () => {
  try {
    await ask("POST", "/logout");
  } finally {
    localStorage.removeItem(KEY);
    document.getElementById("server").textContent = "";
    await route();
  }
});
window.addEventListener("hashchange", route);
route();
