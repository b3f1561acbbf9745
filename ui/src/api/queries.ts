import { infiniteQueryOptions, keepPreviousData, queryOptions, QueryClient } from "@tanstack/react-query";
import { answer, api, Offline, Refused, type Schemas } from "./client";
import { FINAL, type StatusName } from "../states";
import { kept } from "./kept";

export const client = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 2_000,
      gcTime: 300_000,
      refetchOnWindowFocus: true,
      // Whether it answers is for `stream` to find out, and a refusal stays one.
      retry: (failures, error) => !(error instanceof Refused) && !(error instanceof Offline) && failures < 2,
      networkMode: "always",
    },
    mutations: { networkMode: "always" },
  },
});

export type Summary = Schemas["Summary"];
export type DispatchArray = Schemas["DispatchArray"];
export type TaskDetail = Schemas["TaskDetail"];

export const statusQuery = queryOptions({
  queryKey: ["status"],
  queryFn: () => answer(api.GET("/api/v1/status")),
  refetchInterval: 15_000,
});

export const clustersQuery = queryOptions({
  queryKey: ["clusters"],
  queryFn: () => answer(api.GET("/api/v1/clusters")),
  refetchInterval: 10_000,
});

export interface DispatchFilter {
  readonly status: readonly StatusName[];
  readonly q: string;
  readonly sort: "created_at" | "name" | "status" | "n_tasks";
  readonly ascending: boolean;
}

export const PAGE = 50;
/** How often what is live is looked at for what no event tells, while it is seen. */
const LOOK_MS = 5_000;

export function dispatchesQuery(filter: DispatchFilter) {
  return infiniteQueryOptions({
    queryKey: ["dispatches", filter],
    queryFn: ({ pageParam }) =>
      answer(
        api.GET("/api/v1/dispatches", {
          params: { query: { limit: PAGE, before: pageParam, status: filter.status.length ? [...filter.status] : null, q: filter.q, sort: filter.sort, ascending: filter.ascending } },
        }),
      ),
    initialPageParam: null as string | null,
    getNextPageParam: (last) => (last.dispatches.length === PAGE ? (last.dispatches.at(-1)?.id ?? null) : null),
    placeholderData: keepPreviousData,
  });
}

export function summaryQuery(id: string) {
  return queryOptions({
    queryKey: ["dispatch", id, "summary"],
    queryFn: () => answer(api.GET("/api/v1/dispatches/{dispatch_id}", { params: { path: { dispatch_id: id } } })),
    // That a cluster does not answer is no news of a task.
    refetchInterval: (query) => (query.state.data?.status === "RUNNING" ? LOOK_MS : false),
  });
}

export type RetryPlan = Schemas["RetryPlan"];

const PLAN_MS = 4_000;
const PLAN_SOON_MS = 500;

/**
 * What a retry would do. It looks at all tasks, so it is not asked with each that moves; of many tasks the key is long.
 * What does not fit to what is shown is asked for again soon.
 */
export function retryPlanQuery(id: string, asked: { failed_only: boolean; tasks: number[] | null }, shown: { failed: number; cancelled: number } | null = null) {
  const live = client.getQueryData<Summary>(["dispatch", id, "summary"])?.status === "RUNNING";
  return queryOptions({
    queryKey: ["retry plan", id, live, asked.failed_only, asked.tasks?.join() ?? null],
    queryFn: () => answer(api.POST("/api/v1/dispatches/{dispatch_id}/retry/plan", { params: { path: { dispatch_id: id } }, body: { more: false, ...asked } })),
    refetchInterval: ({ state: { data } }) => (shown && data && (data.failed !== shown.failed || data.cancelled !== shown.cancelled) ? PLAN_SOON_MS : live ? PLAN_MS : false),
    // Tasks that have run again fail with other amounts.
    ...(asked.tasks === null ? {} : { gcTime: 0 }),
    // What was said of another task is not true of this one.
    ...(asked.tasks === null ? { placeholderData: kept(id) } : {}),
  });
}

/** Which jobs a cancel of some tasks would touch. */
export function cancelPlanQuery(id: string, tasks: number[]) {
  return queryOptions({
    queryKey: ["dispatch", id, "cancel plan", tasks.join()],
    queryFn: () => answer(api.POST("/api/v1/dispatches/{dispatch_id}/cancel/plan", { params: { path: { dispatch_id: id } }, body: { tasks, begun: true } })),
  });
}

/** What failed, tasks of one cause together. */
export function failuresQuery(id: string) {
  return queryOptions({
    queryKey: ["dispatch", id, "failures"],
    queryFn: () => answer(api.GET("/api/v1/dispatches/{dispatch_id}/failures", { params: { path: { dispatch_id: id } } })),
  });
}

export function usageQuery(id: string) {
  return queryOptions({
    queryKey: ["dispatch", id, "usage"],
    queryFn: () => answer(api.GET("/api/v1/dispatches/{dispatch_id}/usage", { params: { path: { dispatch_id: id } } })),
  });
}

export function arraysQuery(id: string) {
  return queryOptions({
    queryKey: ["dispatch", id, "arrays"],
    queryFn: () => answer(api.GET("/api/v1/dispatches/{dispatch_id}/arrays", { params: { path: { dispatch_id: id } } })),
    // That an array ends is no news of a task.
    refetchInterval: (query) => (query.state.data?.arrays.some((array) => array.ended_at === null && array.state !== "refused") ? LOOK_MS : false),
  });
}

export function graphQuery(id: string) {
  return queryOptions({
    queryKey: ["graph", id],
    queryFn: () => answer(api.GET("/api/v1/dispatches/{dispatch_id}/graph", { params: { path: { dispatch_id: id } } })),
    staleTime: Infinity,
  });
}

/** What `lattice.draw()` sent: it never changes, and is forgotten after a while. */
export function sketchQuery(id: string) {
  return queryOptions({
    queryKey: ["sketch", id],
    queryFn: () => answer(api.GET("/api/v1/sketches/{sketch_id}", { params: { path: { sketch_id: id } } })),
    staleTime: Infinity,
  });
}

export function sketchGraphQuery(id: string) {
  return queryOptions({
    queryKey: ["sketch", id, "graph"],
    queryFn: () => answer(api.GET("/api/v1/sketches/{sketch_id}/graph", { params: { path: { sketch_id: id } } })),
    staleTime: Infinity,
  });
}

/** The state of every task: the codes of their letters, and the number of the last news in it. */
export interface Letters {
  readonly number: number;
  readonly codes: Uint8Array;
}

export function lettersQuery(id: string) {
  return queryOptions({
    queryKey: ["letters", id],
    queryFn: async (): Promise<Letters> => {
      const got = await answer(api.GET("/api/v1/dispatches/{dispatch_id}/states", { params: { path: { dispatch_id: id } } }));
      return { number: got.number, codes: new TextEncoder().encode(got.states) };
    },
    // News keep it fresh; a stream that missed some has everything read again.
    staleTime: Infinity,
  });
}

export interface TaskFilter {
  readonly state: readonly string[];
  readonly q: string;
  readonly name: string | null;
  readonly sort: TaskSort;
  readonly descending: boolean;
}

export type TaskSort = "index" | "name" | "state" | "attempt" | "host" | "started_at" | "ended_at" | "wall_s" | "cpu_s" | "max_rss_kib";

/** A row of the table of tasks. */
export interface TaskRow {
  index: number;
  name: string;
  state: string;
  attempt: number;
  cluster: string | null;
  job_id: string | null;
  array_index: number | null;
  host: string | null;
  started_at: string | null;
  ended_at: string | null;
  wall_s: number | null;
  cpu_s: number | null;
  max_rss_kib: number | null;
  error: string | null;
  cores: number;
  /** Its cluster does not answer since then. */
  unknown_since: string | null;
}

export interface TaskPage {
  readonly rows: TaskRow[];
  readonly found: number;
  readonly total: number;
}

const TASK_PAGE = 200;

export function tasksQuery(id: string, filter: TaskFilter) {
  return infiniteQueryOptions({
    queryKey: ["dispatch", id, "page", filter],
    queryFn: async ({ pageParam }): Promise<TaskPage> => {
      const query = { ...filter, state: filter.state.join(","), after: pageParam, limit: TASK_PAGE };
      const got = await answer(api.GET("/api/v1/dispatches/{dispatch_id}/page", { params: { path: { dispatch_id: id }, query } }));
      const rows = got.rows.map((row) => Object.fromEntries(got.columns.map((column, k) => [column, row[k]])) as unknown as TaskRow);
      return { rows, found: got.found, total: got.total };
    },
    initialPageParam: null as number | null,
    getNextPageParam: (last) => (last.rows.length === TASK_PAGE ? (last.rows.at(-1)?.index ?? null) : null),
    placeholderData: kept(id),
  });
}

export function taskQuery(id: string, index: number) {
  return queryOptions({
    queryKey: ["dispatch", id, "task", index],
    queryFn: () => answer(api.GET("/api/v1/dispatches/{dispatch_id}/tasks/{index}", { params: { path: { dispatch_id: id, index } } })),
    refetchInterval: (query) => (query.state.data && !FINAL.has(query.state.data.state) ? LOOK_MS : false),
    placeholderData: kept(id),
  });
}

export function aboutQuery(id: string, index: number) {
  return queryOptions({
    queryKey: ["dispatch", id, "about", index],
    queryFn: () => answer(api.GET("/api/v1/dispatches/{dispatch_id}/tasks/{index}/about", { params: { path: { dispatch_id: id, index } } })),
    placeholderData: kept(id),
  });
}
