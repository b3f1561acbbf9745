// Runs the page's script in Node: a document of plain objects, and a server that answers what the test says.
// stdin: {"hash", "answers": {"GET /path": body | [bodies]}, "click": [names], "confirm": bool}; stdout: what was shown.
"use strict";

const vm = require("node:vm");
const fs = require("node:fs");

const plan = JSON.parse(fs.readFileSync(0, "utf8"));

class Node {
  constructor(tag, text) {
    Object.assign(this, { tag, text, children: [], attributes: {}, listeners: {}, hidden: false, disabled: false });
  }
  setAttribute(name, value) { this.attributes[name] = `${value}`; }
  addEventListener(name, listener) { this.listeners[name] = listener; }
  append(...nodes) { this.children.push(...nodes.map((node) => (node instanceof Node ? node : new Node("", `${node}`)))); }
  replaceChildren(...nodes) { this.children = []; this.append(...nodes); }
  set textContent(text) { this.children = [new Node("", text)]; }
  get textContent() { return this.text ?? this.children.map((node) => node.textContent).join(""); }
  all(tag) { return this.children.flatMap((node) => [...(node.tag === tag ? [node] : []), ...node.all(tag)]); }
}

const places = { view: new Node("main"), server: new Node("span"), logout: new Node("button") };
const asked = [];
const questions = [];
const context = {
  Node, URLSearchParams, Date, console, JSON, Error, Promise,
  document: {
    hidden: false,
    getElementById: (id) => places[id],
    createElement: (tag) => new Node(tag),
    createTextNode: (text) => new Node("", text),
  },
  window: { addEventListener() {} },
  location: { hash: plan.hash },
  history: { replaceState() {} },
  localStorage: { getItem: () => "key", setItem() {}, removeItem() {} },
  setTimeout: (done) => setImmediate(done),
  confirm: (question) => questions.push(question) && plan.confirm,
  fetch: async (path, { method, body }) => {
    const key = `${method} ${path.split("?")[0].replace("/api/v1", "")}`;
    asked.push(body === undefined ? key : `${key} ${body}`);
    const known = plan.answers[key];
    if (path.includes("since=")) return new Promise(() => {});
    const answer = Array.isArray(known) ? (known.length > 1 ? known.shift() : known[0]) : known;
    const text = JSON.stringify(answer ?? { error: `Nothing at ${key}.` });
    const status = answer === undefined ? 404 : (answer.error_status ?? 200);
    return { ok: status < 400, status, headers: { get: () => "application/json" }, text: async () => text };
  },
};
vm.createContext(context);
vm.runInContext(fs.readFileSync(process.argv[2], "utf8"), context);

const settled = async () => { for (let turn = 0; turn < 200; turn++) await new Promise((done) => setImmediate(done)); };
(async () => {
  await settled();
  for (const name of plan.click ?? []) {
    places.view.all("button").find((button) => button.textContent === name).listeners.click();
    await settled();
  }
  const texts = (tag) => places.view.all(tag).map((node) => node.textContent);
  console.log(JSON.stringify({ buttons: texts("button"), paragraphs: texts("p"), cells: texts("td"), asked, questions }));
  process.exit(0);
})();
