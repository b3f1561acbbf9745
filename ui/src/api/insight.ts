import { queryOptions } from "@tanstack/react-query";
import { answer, api, type Schemas } from "./client";

export type Timeline = Schemas["Timeline"];
export type ElectronUse = Schemas["ElectronUse"];
export type EffectiveSettings = Schemas["EffectiveSettings"];
export type ServerLog = Schemas["ServerLog"];
export type LogLevel = Schemas["LogEntry"]["level"];

/** Read again at most so often while a dispatch runs: it is as long as its tasks are many. */
const LIVE_MS = 5_000;

export function timelineQuery(id: string) {
  return queryOptions({
    queryKey: ["timeline", id],
    queryFn: () => answer(api.GET("/api/v1/dispatches/{dispatch_id}/timeline", { params: { path: { dispatch_id: id } } })),
    refetchInterval: (query) => (query.state.data?.live ? LIVE_MS : false),
  });
}

export function efficiencyQuery(id: string) {
  return queryOptions({
    queryKey: ["efficiency", id],
    queryFn: () => answer(api.GET("/api/v1/dispatches/{dispatch_id}/efficiency", { params: { path: { dispatch_id: id } } })),
    // What it cost is known some seconds after the last task: jobs end later than what they ran.
    refetchInterval: (query) => (query.state.data?.usage.open ? LIVE_MS : false),
  });
}

export function latelyQuery(days: number) {
  return queryOptions({
    queryKey: ["lately", days],
    queryFn: () => answer(api.GET("/api/v1/efficiency", { params: { query: { days } } })),
    staleTime: 30_000,
  });
}

export const settingsQuery = queryOptions({
  queryKey: ["settings"],
  queryFn: () => answer(api.GET("/api/v1/settings/effective")),
});

export function serverLogQuery(q: string, level: LogLevel, limit: number, follow: boolean) {
  return queryOptions({
    queryKey: ["log", q, level, limit],
    // Unless something was written, the answer is that nothing was.
    queryFn: () => answer(api.GET("/api/v1/log", { params: { query: { q, level, limit } } })),
    refetchInterval: follow ? 2_000 : false,
  });
}
