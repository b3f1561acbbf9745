import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];

/** Where the page lies, without the slash at the end: a proxy may have put it below any path. */
export const BASE = location.origin + location.pathname.replace(/\/[^/]*$/, "");
/** Several servers may be reached through one origin. */
const KEY = `hpcflow-key ${location.pathname}`;

export const sessionKey = {
  get: (): string => localStorage.getItem(KEY) ?? "",
  set: (key: string): void => localStorage.setItem(KEY, key),
  drop: (): void => localStorage.removeItem(KEY),
};

/** The server answered, and said no, in a sentence. */
export class Refused extends Error {
  constructor(readonly status: number, sentence: string) {
    super(sentence);
    this.name = "Refused";
  }
}

/** Nothing answered. */
export class Offline extends Error {
  constructor() {
    super("The hpcflow server does not answer.");
    this.name = "Offline";
  }
}

export type Connection = "ok" | "offline" | "login";

let connection: Connection = "ok";
let heardAt = 0;
const listeners = new Set<() => void>();

/** Whether the server answers, and when it did last (ms): read by React as an external store. */
export const link = {
  subscribe(listener: () => void): () => void {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
  state: (): Connection => connection,
  heardAt: (): number => heardAt,
  set(next: Connection): void {
    if (next === "ok") heardAt = Date.now();
    if (next === connection) return;
    connection = next;
    listeners.forEach((listener) => listener());
  },
};

export const api = createClient<paths>({ baseUrl: BASE, cache: "no-cache" });
api.use({
  onRequest({ request }) {
    request.headers.set("x-hpcflow-key", sessionKey.get());
    return request;
  },
});

interface Answer<T> {
  readonly data?: T;
  readonly error?: unknown;
  readonly response: Response;
}

/** Returns what the server answered, or throws `Refused` or `Offline`. */
export async function answer<T>(call: Promise<Answer<T>>): Promise<T> {
  let got: Answer<T>;
  try {
    got = await call;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    link.set("offline");
    throw new Offline();
  }
  const { response } = got;
  if (response.ok) {
    link.set("ok");
    return got.data as T;
  }
  // A proxy in between answers for a server that is away.
  if (response.status >= 502 && response.status <= 504) {
    link.set("offline");
    throw new Offline();
  }
  link.set(response.status === 401 ? "login" : "ok");
  const said = got.error as { error?: unknown } | string | undefined;
  const sentence = typeof said === "object" && typeof said.error === "string" ? said.error : `The server answered ${response.status}.`;
  throw new Refused(response.status, sentence);
}

/** Redeems the one-time code of a link that `hpcflow ui` prints. */
export async function logIn(code: string): Promise<void> {
  const { key } = await answer(api.POST("/login", { body: { code } }));
  sessionKey.set(key);
}
