import { useState } from "react";
import { answer, api, type Schemas } from "../api/client";
import { client } from "../api/queries";
import { Fault } from "./basics";
import { Question } from "./actions";

type Asked = Schemas["LoginAnswer"];

/** Logs in to a cluster that asks for a password or a code: what is typed goes to its ssh and is kept nowhere. */
export function LoginButton({ name, disabled, onIn }: { name: string; disabled: boolean; onIn?: () => void }) {
  const [asked, setAsked] = useState<Asked | null>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const path = { path: { name } };
  const step = async (call: () => Promise<Asked>) => {
    setBusy(true);
    setError(null);
    setAsked(null);
    try {
      const next = await call();
      setAsked(next.question === null ? null : next);
      if (next.question === null) onIn?.();
    } catch (fault) {
      setError(fault);
    }
    setBusy(false);
    await client.invalidateQueries({ queryKey: ["clusters"] });
  };
  const begin = () => void step(() => answer(api.POST("/api/v1/clusters/{name}/login", { params: path })));
  const question = asked?.question ?? null;
  return (
    <>
      <button type="button" className="button primary" disabled={disabled || busy} onClick={begin}>{busy ? "Logging in…" : "Log in"}</button>
      {error !== null && <Fault error={error} retry={begin} />}
      {asked !== null && question !== null && (
        <Question
          key={question.number}
          title={`${question.host} asks`}
          yes="Answer"
          no="Not now"
          onClose={() => setAsked(null)}
          onYes={(form) => {
            const answers = question.prompts.map((_, k) => String(form.get(`answer-${k}`) ?? ""));
            void step(() => answer(api.POST("/api/v1/clusters/{name}/login/answer", { params: path, body: { login: asked.login, number: question.number, answers } })));
          }}
        >
          {question.text && <p className="error-text">{question.text}</p>}
          {question.prompts.map((prompt, k) => (
            <label key={k} className="field">
              {prompt.text || "Answer"}
              <input name={`answer-${k}`} type={prompt.echo ? "text" : "password"} autoComplete="off" autoFocus={k === 0} />
            </label>
          ))}
          <p className="soft">It goes to ssh on the server’s machine, is used once, and is kept nowhere.</p>
        </Question>
      )}
    </>
  );
}
