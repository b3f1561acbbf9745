import { useState } from "react";
import { answer, api, type Schemas } from "../api/client";
import { client } from "../api/queries";
import { Fault, Notice } from "./basics";
import { Question } from "./actions";
import { LoginButton } from "./Login";

type Draft = Schemas["ClusterDraftAnswer"];

const SCHEDULERS = { slurm: "Slurm", pbs: "PBS", lsf: "LSF", local: "none: processes on this machine" } as const;
const MORE = [
  ["account", "Account that pays", "the scheduler’s default"],
  ["partition", "Partition or queue", "the scheduler’s default"],
  ["workdir", "Work directory there, which login and compute nodes see", "~/.hpcflow/work/NAME"],
  ["keys", "Folder of the key that signs what runs, which compute nodes see", "~/.config/hpcflow/keys"],
  ["python", "Python of the workers", "found there"],
  ["prologue", "Line of shell before the worker starts", "such as: module load python"],
] as const;

/** Describes a cluster, reaches it with a person's help where only that helps, and writes it to clusters.toml: nothing before. */
export function AddCluster({ disabled, onAdded }: { disabled: boolean; onAdded: (name: string) => void }) {
  const [open, setOpen] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [wanted, setWanted] = useState<{ name: string; settings: Record<string, string> } | null>(null);
  const [draft, setDraft] = useState<Draft | null>(null);
  const close = () => {
    setOpen(false);
    setDraft(null);
    setError(null);
  };
  const attempt = async (call: () => Promise<void>) => {
    setBusy(true);
    setError(null);
    try {
      await call();
    } catch (fault) {
      setError(fault);
    }
    setBusy(false);
  };
  const add = async (name: string) => {
    await answer(api.POST("/api/v1/clusters/{name}/add", { params: { path: { name } } }));
    await client.invalidateQueries({ queryKey: ["clusters"] });
    close();
    onAdded(name);
  };
  const reach = (name: string, settings: Record<string, string>, accepted: string[]) =>
    attempt(async () => {
      setDraft(null);
      setWanted({ name, settings });
      const got = await answer(api.POST("/api/v1/clusters/{name}/draft", { params: { path: { name } }, body: { settings, accept_host_keys: accepted } }));
      if (got.state === "ok") await add(name);
      else setDraft(got);
    });
  if (!open) return <button type="button" className="button" disabled={disabled} onClick={() => setOpen(true)}>Add a cluster</button>;
  const key = draft?.host_key ?? null;
  return (
    <article className="card" aria-labelledby="add-title">
      <h2 id="add-title" className="first">Add a cluster</h2>
      <form className="stack" onSubmit={(event) => {
        event.preventDefault();
        const form = [...new FormData(event.currentTarget)].map(([field, value]) => [field, String(value).trim()] as const).filter(([, value]) => value !== "");
        const { name = "", ...settings } = Object.fromEntries(form);
        void reach(name, settings, []);
      }}>
        <div className="row">
          <label className="field">Name<input name="name" required pattern="[A-Za-z0-9][A-Za-z0-9_\-]*" maxLength={64} placeholder="perlmutter" autoComplete="off" spellCheck={false} /></label>
          <label className="field">Host, as you would tell ssh<input name="host" placeholder="empty: this machine" autoComplete="off" spellCheck={false} /></label>
          <label className="field">Scheduler<select name="scheduler" defaultValue="slurm">{Object.entries(SCHEDULERS).map(([value, words]) => <option key={value} value={value}>{words}</option>)}</select></label>
        </div>
        <details className="fold">
          <summary>More</summary>
          <div className="stack">{MORE.map(([field, words, usual]) => <label key={field} className="field">{words}<input name={field} placeholder={usual} autoComplete="off" spellCheck={false} /></label>)}</div>
        </details>
        <div className="actions-left">
          <button type="submit" className="button primary" disabled={busy || disabled}>{busy ? "Reaching it…" : "Reach and add"}</button>
          <button type="button" className="button" onClick={close}>Not now</button>
          <span className="soft">Nothing is written before it was reached.</span>
        </div>
      </form>
      {error !== null && <Fault error={error} />}
      {draft?.state === "needs login" && wanted && (
        <Notice tone="warn" title="It lets nobody in without a person.">
          {draft.problem} <LoginButton name={wanted.name} disabled={disabled} onIn={() => void attempt(() => add(wanted.name))} />
        </Notice>
      )}
      {key && wanted && (
        <Question title={`The host ${key.place} is unknown`} yes="Accept this key" no="Not now" onYes={() => void reach(wanted.name, wanted.settings, [key.fingerprint])} onClose={() => setDraft(null)}>
          <p>It shows the {key.kind} key</p>
          <p><code className="breakable">{key.fingerprint}</code></p>
          <p>Compare that with the fingerprint that the site publishes. If you accept it, it is written to <code className="breakable">{key.file}</code>.</p>
        </Question>
      )}
    </article>
  );
}
