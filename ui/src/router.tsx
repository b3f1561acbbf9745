import type { QueryClient } from "@tanstack/react-query";
import { createHashHistory, createRootRouteWithContext, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import type { DispatchFilter, TaskSort } from "./api/queries";
import { STREAMS, type Stream } from "./streams";
import { STATES, STATUS_TONE, type StatusName } from "./states";
import { NotFound, Shell } from "./screens/Shell";
import { Dispatches } from "./screens/Dispatches";
import { Dispatch } from "./screens/Dispatch";
import { Now } from "./screens/Now";

/** Addresses lie behind `#`: the server has one page to serve, under any prefix, and knows every path that is open. */

const text = (value: unknown): string => (typeof value === "string" || typeof value === "number" ? String(value) : "");
const oneOf = <T extends string>(value: unknown, known: readonly T[], usual: T): T => (known.includes(value as T) ? (value as T) : usual);
const several = <T extends string>(value: unknown, known: readonly T[]): T[] => known.filter((each) => text(value).split(",").includes(each));

const DISPATCH_SORTS = ["created_at", "name", "status", "n_tasks"] as const;
const TASK_SORTS = ["index", "name", "state", "attempt", "host", "started_at", "ended_at", "wall_s", "cpu_s", "max_rss_kib"] as const satisfies readonly TaskSort[];
export const VIEWS = ["graph", "table", "timeline", "logs", "jobs", "efficiency"] as const;
export type View = (typeof VIEWS)[number];
export const LENSES = ["all", "failed"] as const;

export interface DispatchesSearch {
  status?: string;
  q?: string;
  sort?: DispatchFilter["sort"];
  up?: boolean;
}
export interface DispatchSearch {
  view?: View;
  state?: string;
  q?: string;
  name?: string;
  sort?: TaskSort;
  down?: boolean;
  lens?: (typeof LENSES)[number];
  group?: number;
  sel?: number;
  /** The sublattice that the graph shows. */
  in?: string;
  /** The part of the timeline that is seen: seconds after the dispatch was made. */
  from?: number;
  to?: number;
}
export interface TaskSearch {
  tab?: "output" | "code" | "values";
  /** A byte of a stream. */
  stream?: Stream;
  at?: number;
}

/** Leaves out what is usual: the shortest address says the same. */
function compact<T extends object>(search: T): T {
  return Object.fromEntries(Object.entries(search).filter(([, value]) => value !== "" && value !== false && value !== undefined)) as T;
}

const root = createRootRouteWithContext<{ client: QueryClient }>()({ component: Shell, notFoundComponent: NotFound });

const now = createRoute({ getParentRoute: () => root, path: "/", component: Now });

export const dispatches = createRoute({
  getParentRoute: () => root,
  path: "/dispatches",
  validateSearch: (raw: Record<string, unknown>): DispatchesSearch => {
    const sort = oneOf(raw["sort"], DISPATCH_SORTS, "created_at");
    const status = several(raw["status"], Object.keys(STATUS_TONE) as StatusName[]).join(",");
    return compact({ status, q: text(raw["q"]), ...(sort === "created_at" ? {} : { sort }), up: raw["up"] === true });
  },
  component: Dispatches,
});

export const dispatch = createRoute({
  getParentRoute: () => root,
  path: "/d/$id",
  validateSearch: (raw: Record<string, unknown>): DispatchSearch => {
    const view = oneOf(raw["view"], VIEWS, "graph");
    const sort = oneOf(raw["sort"], TASK_SORTS, "index");
    const lens = oneOf(raw["lens"], LENSES, "all");
    const number = (value: unknown) => (Number.isSafeInteger(Number(value)) && text(value) !== "" ? { value: Number(value) } : null);
    const group = number(raw["group"]);
    const sel = number(raw["sel"]);
    const [from, to] = [Number(raw["from"]), Number(raw["to"])];
    return compact({
      ...(view === "graph" ? {} : { view }),
      state: several(raw["state"], STATES.map((each) => each.name)).join(","),
      q: text(raw["q"]),
      name: text(raw["name"]),
      ...(sort === "index" ? {} : { sort }),
      down: raw["down"] === true,
      ...(lens === "all" ? {} : { lens }),
      ...(group ? { group: group.value } : {}),
      ...(sel ? { sel: sel.value } : {}),
      ...(/^[0-9A-Z]{26}$/.test(text(raw["in"])) ? { in: text(raw["in"]) } : {}),
      ...(view === "timeline" && raw["from"] !== undefined && from < to ? { from, to } : {}),
    });
  },
  component: Dispatch,
});

export const task = createRoute({
  getParentRoute: () => root,
  path: "/d/$id/e/$index",
  validateSearch: (raw: Record<string, unknown>): TaskSearch => {
    const tab = oneOf(raw["tab"], ["output", "code", "values"] as const, "output");
    const at = Number(raw["at"]);
    const spot = Number.isSafeInteger(at) && at >= 0 && text(raw["at"]) !== "" ? { stream: oneOf(raw["stream"], STREAMS, "stderr"), at } : {};
    return { ...(tab === "output" ? spot : { tab }) };
  },
  component: lazyRouteComponent(() => import("./screens/Task"), "Task"),
});

export interface PreviewSearch {
  view?: "graph" | "table";
  name?: string;
  group?: number;
  sel?: number;
}

export const preview = createRoute({
  getParentRoute: () => root,
  path: "/preview/$id",
  validateSearch: (raw: Record<string, unknown>): PreviewSearch => {
    const whole = (value: unknown) => (Number.isSafeInteger(Number(value)) && text(value) !== "" ? Number(value) : undefined);
    const [group, sel, name] = [whole(raw["group"]), whole(raw["sel"]), text(raw["name"])];
    return {
      ...(raw["view"] === "table" ? { view: "table" as const } : {}),
      ...(name === "" ? {} : { name }),
      ...(group === undefined ? {} : { group }),
      ...(sel === undefined ? {} : { sel }),
    };
  },
  component: lazyRouteComponent(() => import("./screens/Preview"), "Preview"),
});

export const clusters = createRoute({
  getParentRoute: () => root,
  path: "/clusters",
  component: lazyRouteComponent(() => import("./screens/Clusters"), "Clusters"),
});

export interface QueueSearch {
  mine?: boolean;
  state?: string;
  q?: string;
  partition?: string;
  sort?: string;
  down?: boolean;
}
const QUEUE_SORTS = ["order", "job", "partition", "state", "ahead", "start", "cores", "user", "walltime"] as const;

export const queue = createRoute({
  getParentRoute: () => root,
  path: "/queue/$cluster",
  validateSearch: (raw: Record<string, unknown>): QueueSearch => {
    const sort = oneOf(raw["sort"], QUEUE_SORTS, "order");
    return {
      ...(raw["mine"] === false ? { mine: false } : {}),
      ...compact({ state: several(raw["state"], ["running", "pending"]).join(","), q: text(raw["q"]), partition: text(raw["partition"]), ...(sort === "order" ? {} : { sort }), down: raw["down"] === true }),
    };
  },
  component: lazyRouteComponent(() => import("./screens/Queue"), "Queue"),
});

export const DAYS = [1, 7, 30, 365] as const;
export interface EfficiencySearch {
  days?: (typeof DAYS)[number];
}

export const efficiency = createRoute({
  getParentRoute: () => root,
  path: "/efficiency",
  validateSearch: (raw: Record<string, unknown>): EfficiencySearch => {
    const days = DAYS.find((each) => each === Number(raw["days"]));
    return days === undefined || days === 30 ? {} : { days };
  },
  component: lazyRouteComponent(() => import("./screens/Efficiency"), "Efficiency"),
});

export interface SettingsSearch {
  q?: string;
  set?: boolean;
}

export const settings = createRoute({
  getParentRoute: () => root,
  path: "/settings",
  validateSearch: (raw: Record<string, unknown>): SettingsSearch => compact({ q: text(raw["q"]), set: raw["set"] === true }),
  component: lazyRouteComponent(() => import("./screens/Settings"), "Settings"),
});

export interface LogsSearch {
  q?: string;
  level?: "WARNING" | "ERROR";
  still?: boolean;
  all?: boolean;
}

export const logs = createRoute({
  getParentRoute: () => root,
  path: "/logs",
  validateSearch: (raw: Record<string, unknown>): LogsSearch => {
    const level = oneOf(raw["level"], ["INFO", "WARNING", "ERROR"] as const, "INFO");
    return compact({ q: text(raw["q"]), ...(level === "INFO" ? {} : { level }), still: raw["still"] === true, all: raw["all"] === true });
  },
  component: lazyRouteComponent(() => import("./screens/ServerLog"), "ServerLog"),
});

const tree = root.addChildren([now, dispatches, dispatch, task, preview, clusters, queue, efficiency, settings, logs]);

export function makeRouter(client: QueryClient) {
  return createRouter({ routeTree: tree, history: createHashHistory(), context: { client }, defaultPreload: false, scrollRestoration: true });
}

declare module "@tanstack/react-router" {
  interface Register {
    router: ReturnType<typeof makeRouter>;
  }
}
