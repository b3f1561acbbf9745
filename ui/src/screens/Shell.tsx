import { useQuery } from "@tanstack/react-query";
import { Link, Outlet, useRouterState } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";
import { link } from "../api/client";
import { clustersQuery, statusQuery } from "../api/queries";
import { logOut } from "../api/session";
import { Toasts } from "../components/actions";
import { Code, moved, Title, useLink, useNow } from "../components/basics";
import { setTheme, theme, type Theme } from "../components/theme";

const PAGES = [
  { to: "/", text: "Now" },
  { to: "/dispatches", text: "Dispatches" },
] as const;
/** After the queue. */
const LATER = [
  { to: "/efficiency", text: "Efficiency" },
  { to: "/clusters", text: "Clusters" },
  { to: "/settings", text: "Settings" },
] as const;

export function Shell() {
  const state = useLink();
  const [help, setHelp] = useState(false);
  const path = useRouterState({ select: (router) => router.location.pathname });
  const first = useRef(true);
  useEffect(() => {
    // A new screen begins at its title, for those who don't see it change.
    setHelp(false);
    const here = document.querySelector<HTMLElement>(".bar nav [aria-current]");
    // Not by scrollIntoView: the next Tab would go on from there.
    if (here?.parentElement) here.parentElement.scrollLeft = here.offsetLeft + here.offsetWidth - here.parentElement.offsetLeft - here.parentElement.clientWidth;
    if (first.current) first.current = false;
    else {
      moved.once = true;
      document.getElementById("title")?.focus({ preventScroll: true });
    }
  }, [path]);
  useEffect(() => {
    const listen = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) return;
      if (event.key === "?") setHelp(true);
      if (event.key === "/") {
        const box = document.querySelector<HTMLInputElement>("input[data-search]");
        if (box) {
          event.preventDefault();
          box.focus();
        }
      }
    };
    addEventListener("keydown", listen);
    return () => removeEventListener("keydown", listen);
  }, []);
  return (
    <>
      <a className="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>Skip to the content</a>
      <header className="bar">
        <Link to="/" className="name"><Logo /> hpcflow</Link>
        <nav aria-label="Pages">
          {PAGES.map((page) => (
            <Link key={page.text} to={page.to} className="page-link" activeOptions={{ exact: page.to === "/", includeSearch: false }} activeProps={{ "aria-current": "page" }}>{page.text}</Link>
          ))}
          <QueueLink />
          {LATER.map((page) => (
            <Link key={page.text} to={page.to} className="page-link" activeOptions={{ includeSearch: false }} activeProps={{ "aria-current": "page" }}>{page.text}</Link>
          ))}
        </nav>
        <div className="bar-end">
          {state !== "login" && <ClusterChips />}
          <ThemeButton />
          <button type="button" className="icon-button" aria-label="Keys and help" onClick={() => setHelp(true)}>?</button>
          {state !== "login" && <button type="button" className="button small" onClick={() => void logOut()}>Log out</button>}
        </div>
      </header>
      {state === "offline" && <OfflineBanner />}
      <main id="main" tabIndex={-1}>{state === "login" ? <Login /> : <Outlet />}</main>
      <Toasts />
      {help && <Help onClose={() => setHelp(false)} />}
    </>
  );
}

/** The queue of the cluster that electrons run on by themselves. */
function QueueLink() {
  const { data } = useQuery(clustersQuery);
  const usual = data?.clusters.find((cluster) => cluster.default) ?? data?.clusters[0];
  // Its place is kept until clusters are known.
  return usual ? <Link to="/queue/$cluster" params={{ cluster: usual.name }} className="page-link" activeProps={{ "aria-current": "page" }}>Queue</Link> : <span className="page-link">Queue</span>;
}

function Logo() {
  return (
    <svg viewBox="0 0 32 32" className="logo" aria-hidden="true">
      <rect width="32" height="32" rx="7" />
      <path d="M7 9h7v5H7zm11 9h7v5h-7zM7 18h7v5H7zM14 11.500h4.500a3 3 0 0 1 3 3V18M14 20.500h4" />
    </svg>
  );
}

function OfflineBanner() {
  const now = useNow();
  const heard = link.heardAt();
  const since = heard ? new Date(heard).toLocaleTimeString("en-GB") : null;
  return (
    <div className="banner" role="alert">
      <strong>The hpcflow server does not answer.</strong>{" "}
      {since ? `This is what it said at ${since}, ${Math.max(0, Math.round((now - heard) / 1000))} s ago. ` : ""}
      The page goes on trying. If it was stopped or started anew, <code>hpcflow start</code> and <code>hpcflow ui</code> bring the page back and print a new link. Jobs in the queue go on without it.
    </div>
  );
}

export function ClusterChips() {
  const { data } = useQuery(clustersQuery);
  return (
    <ul className="cluster-chips" aria-label="Clusters">
      {data?.clusters.map((cluster) => (
        <li key={cluster.name}>
          <Link to={cluster.state === "ok" || cluster.state === "unknown" ? "/queue/$cluster" : "/clusters"} params={{ cluster: cluster.name }} className="cluster-chip" title={cluster.problem ?? (cluster.version || cluster.scheduler)}>
            <span className={`dot dot-${cluster.state.replaceAll(" ", "-")}`} aria-hidden="true" />
            {cluster.name}
            {cluster.state !== "ok" && cluster.state !== "unknown" && <span className={cluster.state === "not set up" ? "soft" : "chip-word"}> {cluster.state}</span>}
          </Link>
        </li>
      ))}
    </ul>
  );
}

function ThemeButton() {
  const [chosen, choose] = useState<Theme>(theme);
  const next: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };
  const sign: Record<Theme, string> = { system: "◐", light: "○", dark: "●" };
  return (
    <button type="button" className="icon-button" aria-label={`Colours: ${chosen}`} title={`Colours: ${chosen}`} onClick={() => { setTheme(next[chosen]); choose(next[chosen]); }}>
      {sign[chosen]}
    </button>
  );
}

function Login() {
  return (
    <section className="card narrow">
      <Title text="Log in" />
      <p>This page is private to whoever runs this hpcflow server. Ask it for a link, and open that here:</p>
      <Code text="hpcflow ui" label="the command that prints a link" />
      <p className="soft">Each link logs one browser in, once, within ten minutes; a server that was started anew wants a new one. On a cluster's login node the command also prints the <code>ssh</code> forward to type on your own machine.</p>
    </section>
  );
}

export function NotFound() {
  return (
    <section className="card narrow">
      <Title text="There is no such page" />
      <p><Link to="/dispatches">All dispatches</Link></p>
    </section>
  );
}

const KEYS: readonly (readonly [string, string])[] = [
  ["/", "to the search field"],
  ["Enter, ↓", "in the search field of tasks: to the first that is found"],
  ["?", "these keys"],
  ["Tab, Enter", "to what can be pressed, and press it"],
  ["Arrows", "in the graph: to the next group; in its tree: up, down, open, close"],
  ["+ − 0", "in the graph: larger, smaller, all of it"],
  ["[ ]", "in the graph: the failed group before, and after"],
  ["Enter, t", "in the graph: open the group's tasks as a table"],
  ["s, u", "in the graph: step into a sublattice, and out of it"],
  ["Esc", "closes what is open"],
];

function Help({ onClose }: { onClose: () => void }) {
  const ref = useRef<HTMLDialogElement>(null);
  const { data } = useQuery(statusQuery);
  useEffect(() => {
    ref.current?.showModal();
    // The focus is on what closes it, at its end: on a small screen that is not where one reads.
    ref.current?.scrollTo(0, 0);
  }, []);
  return (
    <dialog ref={ref} className="dialog" aria-labelledby="help-title" onClose={onClose}>
      <form method="dialog">
        <h2 id="help-title">Keys</h2>
        <dl className="facts">
          {KEYS.map(([key, text]) => (
            <div key={key}><dt><kbd>{key}</kbd></dt><dd>{text}</dd></div>
          ))}
        </dl>
        {data && <p className="soft">hpcflow {data.version}, {data.home} on {data.host}</p>}
        <div className="dialog-buttons"><button type="submit" className="button primary">Close</button></div>
      </form>
    </dialog>
  );
}
